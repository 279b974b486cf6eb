//! The tests, and a kernel of their own.

#![expect(clippy::disallowed_methods, reason = "where a toolkit lies is in the environment")]

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::DType;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::compile::{Code, Compiled, compile, has_spirv_val, validate_spirv};
use super::nvrtc::{self, Resources};
use super::rows::ROWS;
use super::targets::{TARGETS, Target};
use super::{Launch, Launched, Offline, rows};
use crate::cube::{self, Abilities, decode_word, sum_of_lanes};

/// Bytes of stack that a kernel may take which runs for every token: `ptxas` now and then keeps a
/// pointer or two there to have more cubes on a multiprocessor.
const STACK: usize = 16;

/// A kernel that an op launched.
struct Job {
    target: Target,
    op: &'static str,
    hot: bool,
    dtype: DType,
    launch: Launch,
}

#[test]
fn every_kernel_compiles_for_devices_that_are_not_here() {
    let jobs: Vec<Job> = TARGETS.into_iter().flat_map(|target| launched(target, ROWS)).collect();
    let compiled = in_parallel(&jobs, |job| compile(job.target, &job.launch));

    let mut failures = String::new();
    let mut sources: HashMap<(Target, Code), Vec<usize>> = HashMap::new();
    for (index, (job, result)) in jobs.iter().zip(&compiled).enumerate() {
        match result {
            Ok(kernel) => {
                let source = (job.target, kernel.code.clone());
                sources.entry(source).or_default().push(index);
            }
            Err(error) => add(&mut failures, job, error),
        }
    }
    save(&sources, &compiled);

    let tools = Tools::found();
    let sources: Vec<_> = sources.into_iter().collect();
    let built = in_parallel(&sources, |((target, code), _)| tools.build(*target, code));
    let mut table = Table::default();
    for ((_, users), result) in sources.iter().zip(built) {
        let job = &jobs[users[0]];
        let kernel = compiled[users[0]].as_ref().expect("a kernel that is compiled");
        match result {
            Err(error) => add(&mut failures, job, &error),
            Ok(resources) => {
                let hot = users.iter().any(|user| jobs[*user].hot);
                if hot && resources.is_some_and(|taken| taken.stack > STACK) {
                    add(&mut failures, job, &format!("{} spills: {resources:?}", kernel.entry));
                }
                table.add(job.target, kernel, resources);
            }
        }
    }
    say(&format!("{} launches\n{table}", jobs.len()));
    assert!(failures.is_empty(), "{failures}");
}

/// What rows launch on a target, each kernel once.
fn launched(target: Target, rows: &[rows::Row]) -> Vec<Job> {
    let kernels = super::launched(&Offline::new(target), rows);
    let job = |kernel| {
        let Launched { op, hot, dtype, launch } = kernel;
        Job { target, op, hot, dtype, launch }
    };
    kernels.into_iter().map(job).collect()
}

fn add(failures: &mut String, Job { target, op, dtype, launch, .. }: &Job, error: &str) {
    let name = launch.kernel.name();
    let error: Vec<&str> = error.lines().take(40).collect();
    let (target, error) = (target.name(), error.join("\n"));
    let id = &launch.id;
    *failures += &format!("\n{target}, {op}, {dtype:?}: {name}\n{id}\n{error}\n");
}

/// Programs and libraries that look at the result.
struct Tools {
    /// Where the headers of CUDA lie, when NVRTC is here as well.
    toolkit: Option<String>,
    spirv_val: bool,
}

impl Tools {
    fn found() -> Self {
        let toolkit = std::env::var("GLM_TEST_CUDA").ok();
        let toolkit = toolkit.filter(|folder| !folder.is_empty() && nvrtc::is_here());
        if toolkit.is_none() {
            say("skipped: NVRTC (GLM_TEST_CUDA names no toolkit, or its library is not found)");
        }
        let spirv_val = has_spirv_val();
        if !spirv_val {
            say("skipped: spirv-val is not installed");
        }
        Tools { toolkit, spirv_val }
    }

    fn build(&self, target: Target, code: &Code) -> Result<Option<Resources>, String> {
        match (target, code, &self.toolkit) {
            (Target::Cuda(version), Code::Text(source), Some(toolkit)) => {
                nvrtc::compile(version, source, toolkit).map(Some)
            }
            (Target::SpirV(_), Code::Words(words), _) if self.spirv_val => {
                validate_spirv(words).map(|()| None)
            }
            _ => Ok(None),
        }
    }
}

/// Kernels of a name, and the most that one of them takes.
#[derive(Default)]
struct Table(BTreeMap<(&'static str, String), Entry>);

#[derive(Default)]
struct Entry {
    variants: usize,
    units: u32,
    shared: usize,
    resources: Option<Resources>,
}

impl Table {
    fn add(&mut self, target: Target, kernel: &Compiled, resources: Option<Resources>) {
        // The name ends with a hash of what the kernel was made for.
        let name = kernel.entry.rsplit_once('_').map_or(&*kernel.entry, |(name, _)| name);
        let entry = self.0.entry((target.name(), name.to_owned())).or_default();
        entry.variants += 1;
        entry.units = entry.units.max(kernel.units);
        entry.shared = entry.shared.max(kernel.shared);
        if let Some(new) = resources {
            let most = entry.resources.get_or_insert_default();
            most.registers = most.registers.max(new.registers);
            most.stack = most.stack.max(new.stack);
            most.spilled = most.spilled.max(new.spilled);
        }
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{:<12} {:<64} forms units shared registers stack spilled",
            "target", "kernel"
        )?;
        for ((target, name), entry) in &self.0 {
            let Entry { variants, units, shared, resources } = entry;
            write!(f, "{target:<12} {name:<64} {variants:>5} {units:>5} {shared:>6}")?;
            if let Some(Resources { registers, stack, spilled }) = resources {
                write!(f, " {registers:>9} {stack:>5} {spilled:>7}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Writes all kernels into the folder `GLM_TEST_KERNELS`, for whoever wants to read them.
fn save(sources: &HashMap<(Target, Code), Vec<usize>>, compiled: &[Result<Compiled, String>]) {
    let Ok(folder) = std::env::var("GLM_TEST_KERNELS") else { return };
    for ((target, code), users) in sources {
        let folder = Path::new(&folder).join(target.name());
        std::fs::create_dir_all(&folder).expect("a folder");
        let entry = &compiled[users[0]].as_ref().expect("a kernel that is compiled").entry;
        let (kind, bytes) = match (target, code) {
            (Target::Cuda(_), Code::Text(text)) => ("cu", text.as_bytes().to_vec()),
            (Target::Hip(_), Code::Text(text)) => ("hip", text.as_bytes().to_vec()),
            (_, Code::Text(text)) => ("wgsl", text.as_bytes().to_vec()),
            (_, Code::Words(words)) => {
                ("spv", words.iter().flat_map(|word| word.to_le_bytes()).collect())
            }
        };
        std::fs::write(folder.join(format!("{entry}-{}.{kind}", users[0])), bytes).expect("a file");
    }
}

/// Does `work` for all items on all cores, in threads whose stack holds the compilers' recursion.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
        let run = || {
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(index) else { return done };
                done.push((index, work(item)));
            }
        };
        let started: Vec<_> = (0..threads)
            .map(|_| {
                let thread = std::thread::Builder::new().stack_size(64 << 20);
                thread.spawn_scoped(scope, run).expect("a thread")
            })
            .collect();
        started.into_iter().flat_map(|thread| thread.join().expect("a thread")).collect()
    });
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

fn say(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// Products of FP8 rows with `x`, by planes or by shared memory.
#[cube(launch)]
fn example_kernel<F: Float>(
    x: &[Vector<F, Const<4>>],
    words: &[u32],
    out: &mut [F],
    #[comptime] vectors: usize,
    #[comptime] units: usize,
    #[comptime] plane: usize,
    #[comptime] native: bool,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS;
    let unit = UNIT_POS as usize;
    let mut sum = 0.0f32;
    for step in 0..comptime![vectors.div_ceil(units)] {
        let index = step * units + unit;
        if index < vectors {
            let codes = decode_word(words[row * vectors + index], native);
            let product = codes * Vector::<f32, Const<4>>::cast_from(x[index]);
            #[unroll]
            for part in 0..4usize {
                sum += product.extract(part);
            }
        }
    }
    let mut shared = Shared::<[f32]>::new_slice(units);
    let sum = sum_of_lanes(sum, &mut shared, units, plane);
    if unit == 0 {
        out[row] = F::cast_from(sum);
    }
}

fn example(device: &Offline, dtype: DType, units: usize) {
    let abilities = Abilities::of(&device.client);
    let out = device.buffer([48], dtype);
    example_kernel::launch(
        &device.client,
        CubeCount::Static(48, 1, 1),
        CubeDim::new_1d(units as u32),
        device.buffer([4096], dtype).into_buffer_arg(),
        device.buffer([48, 1024], DType::U32).into_buffer_arg(),
        out.into_buffer_arg(),
        1024,
        units,
        abilities.plane_size(),
        abilities.e4m3,
        cube::elem(dtype),
    );
}

#[test]
fn a_kernel_is_compiled_for_every_target_and_never_run() {
    let rows = [rows::Row {
        op: "example",
        hot: true,
        launch: |device, dtype, _| example(device, dtype, 128),
    }];
    let jobs: Vec<Job> = TARGETS.into_iter().flat_map(|target| launched(target, &rows)).collect();
    let of = |target| jobs.iter().filter(|job| job.target == target).count();
    assert_eq!(TARGETS.map(of), [3, 3, 3, 3, 1, 2, 1], "dtypes of the targets");
    let tools = Tools::found();
    for job in &jobs {
        let name = job.target.name();
        let kernel = compile(job.target, &job.launch).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((kernel.units, kernel.shared), (128, 512), "{name}");
        let text = match &kernel.code {
            Code::Text(text) => text.as_str(),
            Code::Words(words) => {
                assert_eq!(words[0], 0x0723_0203, "{name}");
                ""
            }
        };
        match job.target {
            Target::Cuda(_) => {
                assert!(text.contains("__nv_fp8") && text.contains("__shfl"), "{text}")
            }
            Target::Hip(_) => assert!(text.contains("__shfl"), "{text}"),
            Target::Wgsl => assert!(text.contains("workgroupBarrier"), "{text}"),
            Target::SpirV(_) => {}
        }
        let resources =
            tools.build(job.target, &kernel.code).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(resources.is_none_or(|taken| taken.registers > 0 && taken.stack == 0), "{name}");
    }
}

#[test]
fn what_a_device_cannot_hold_is_refused() {
    let device = Offline::new(Target::Wgsl);
    example(&device, DType::F32, 512);
    let launches = device.take();
    assert_eq!(launches.len(), 1);
    let error = compile(Target::Wgsl, &launches[0]).expect_err("512 units");
    assert!(error.contains("512"), "{error}");
}
