//! Kernels of a job, compiled in processes that may end.
//!
//! A worker writes a line before a kernel and a line after it, with tabs between their parts.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use cubecl::hip::{HipCompiler, HipRepresentation};
use glm_backends::offline::{Launched, hip_options, kernels, shares_at_most, unless_it_panics};

use crate::job::{Job, Route};
use crate::object;
use crate::report::{Built, Outcome};

/// Compiles all kernels of a job, by as many workers as it takes.
pub(crate) fn all(job: Job, out: &Path) -> Vec<Outcome> {
    let folder = out.join(format!("{}-{}", job.architecture, job.route.name()));
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).expect("a folder for what is compiled");
    let mut outcomes = Vec::new();
    while !one(job, &folder, &mut outcomes) {
        let many = outcomes.iter().filter(|outcome: &&Outcome| outcome.ended_the_worker()).count();
        assert!(many < 200, "{}: the compiler ends its process all the time", job.architecture);
    }
    outcomes
}

/// Starts a worker behind the kernels that there are outcomes of; whether it came to the end.
fn one(job: Job, folder: &Path, outcomes: &mut Vec<Outcome>) -> bool {
    let log = folder.join(format!("worker-{}.log", outcomes.len()));
    let program = std::env::current_exe().expect("this program");
    let mut worker = Command::new(program)
        .args(["worker", job.architecture, job.route.name()])
        .arg(folder)
        .arg(outcomes.len().to_string())
        .stdout(Stdio::piped())
        .stderr(File::create(&log).expect("a log"))
        .spawn()
        .expect("a worker");
    let lines = BufReader::new(worker.stdout.take().expect("a pipe")).lines();
    let mut current: Option<Outcome> = None;
    let mut done = false;
    for line in lines.map_while(Result::ok) {
        let parts: Vec<&str> = line.split('\t').collect();
        match parts[..] {
            ["kernel", op, dtype, name] => current = Some(Outcome::begun(op, dtype, name)),
            ["built", ref built @ ..] => {
                let outcome = current.take().expect("a kernel before its result");
                outcomes.push(Outcome { result: Ok(Built::read(built)), ..outcome });
            }
            ["failed", reason] => {
                let outcome = current.take().expect("a kernel before its result");
                outcomes.push(Outcome { result: Err(reason.replace("\\n", "\n")), ..outcome });
            }
            ["done"] => done = true,
            _ => panic!("a worker says {line:?}"),
        }
    }
    let status = worker.wait().expect("the end of a worker");
    if done {
        return true;
    }
    let log = fs::read_to_string(log).unwrap_or_default();
    let Some(outcome) = current else { panic!("a worker ends by itself, {status}: {log}") };
    // What ended it is said last.
    let lines: Vec<&str> = log.lines().collect();
    let last = lines[lines.len().saturating_sub(8)..].join("\n");
    let reason = format!("{} {status}: {last}", Outcome::ENDED);
    outcomes.push(Outcome { result: Err(reason), ..outcome });
    false
}

/// What a worker does.
pub(crate) fn run(job: Job, folder: &Path, first: &str) -> ExitCode {
    let first: usize = first.parse().expect("the number of a kernel");
    let folder = folder.to_owned();
    // Compilers recur deeply.
    let thread = std::thread::Builder::new().stack_size(256 << 20);
    let work = move || {
        let device = job.device();
        for (index, kernel) in kernels(device.clone()).iter().enumerate().skip(first) {
            let Launched { op, dtype, launch, .. } = kernel;
            say(&format!("kernel\t{op}\t{dtype:?}\t{}", launch.kernel.name()));
            let result = launch.fits(&device.properties);
            let result = result.and_then(|()| unless_it_panics(|| compile(job, kernel)));
            let result = result.and_then(|(built, bytes)| {
                shares_at_most(built.shared, &device.properties)?;
                Ok((built, bytes))
            });
            match result {
                Ok((mut built, bytes)) => {
                    let kind = if job.route == Route::Llvm { "co" } else { "hip" };
                    built.file = folder.join(format!("{index:04}-{}.{kind}", built.entry));
                    fs::write(&built.file, bytes).expect("a file for what is compiled");
                    say(&format!("built\t{}", built.written()));
                }
                Err(reason) => {
                    say(&format!("failed\t{}", reason.replace('\t', " ").replace('\n', "\\n")));
                }
            }
        }
        say("done");
    };
    let ended = thread.spawn(work).expect("a thread").join();
    if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).expect("whoever started this");
}

/// A code object or a source.
fn compile(job: Job, kernel: &Launched) -> Result<(Built, Vec<u8>), String> {
    let mut compiler = HipCompiler::new(job.route.backend());
    let kernel = kernel.launch.lower(&mut compiler, &hip_options(job.architecture))?;
    let mut built = Built {
        entry: kernel.entrypoint_name,
        units: kernel.cube_dim.num_elems(),
        shared: 0,
        resources: None,
        file: PathBuf::new(),
    };
    let Some(code) = kernel.repr else { return Err("nothing was made of it".into()) };
    built.shared = code.shared_memory_size();
    match code {
        HipRepresentation::Cpp(_) => Ok((built, kernel.source.into_bytes())),
        HipRepresentation::Llvm(module) => {
            let bytes = module.code_object.to_vec();
            let resources = object::check(&bytes, job.architecture, &module.entrypoint)?;
            built.resources = Some(resources);
            Ok((built, bytes))
        }
    }
}
