//! From a launch to what a driver would get, checked as far as that goes without the driver.

use std::io::Write as _;
use std::process::{Command, Stdio};

use cubecl::hip::{HipCompiler, HipRepresentation, compiler::HipBackend};
use cubecl::wgpu::wgpu::naga;
use cubecl::wgpu::{SpirvCompiler, WgslCompiler};
use cubecl::{Compiler, WgpuCompilationOptions};
use cubecl_cpp::shared::CppCompiler;
use cubecl_cpp::target::Cuda;
use cubecl_server::kernel::CompiledKernel;

use super::hip::hip_options;
use super::lower::{shares_at_most, unless_it_panics};
use super::server::Launch;
use super::targets::{self, Target};

/// A kernel in the language of its target.
#[derive(Debug, Clone)]
pub(super) struct Compiled {
    /// The name of its entry.
    pub(super) entry: String,
    pub(super) code: Code,
    /// Units of a cube.
    pub(super) units: u32,
    /// Bytes of shared memory.
    pub(super) shared: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Code {
    Text(String),
    Words(Vec<u32>),
}

impl Compiled {
    fn of<C: Compiler>(kernel: CompiledKernel<C>, shared: usize, code: Option<Code>) -> Self {
        Compiled {
            entry: kernel.entrypoint_name,
            code: code.unwrap_or(Code::Text(kernel.source)),
            units: kernel.cube_dim.num_elems(),
            shared,
        }
    }
}

/// Expands and compiles a kernel, and holds it against the limits of its target.
pub(super) fn compile(target: Target, launch: &Launch) -> Result<Compiled, String> {
    let limits = target.properties();
    launch.fits(&limits)?;
    let compiled = unless_it_panics(|| translate(target, launch))?;
    shares_at_most(compiled.shared, &limits)?;
    Ok(compiled)
}

fn translate(target: Target, launch: &Launch) -> Result<Compiled, String> {
    match target {
        Target::Cuda(version) => {
            let options = targets::cuda_options(version);
            let kernel = launch.lower(&mut CppCompiler::<Cuda>::default(), &options)?;
            let shared = kernel.repr.as_ref().map_or(0, |kernel| kernel.shared_memory_size);
            Ok(Compiled::of(kernel, shared, None))
        }
        Target::Hip(name) => {
            let options = hip_options(name);
            let kernel = launch.lower(&mut HipCompiler::new(HipBackend::Cpp), &options)?;
            let shared = kernel.repr.as_ref().map_or(0, HipRepresentation::shared_memory_size);
            Ok(Compiled::of(kernel, shared, None))
        }
        Target::Wgsl => {
            let options = WgpuCompilationOptions::default();
            let kernel = launch.lower(&mut WgslCompiler, &options)?;
            validate_wgsl(&kernel.source)?;
            let shared = kernel.repr.as_ref().map_or(0, |shader| shader.shared_memory_size);
            Ok(Compiled::of(kernel, shared, None))
        }
        Target::SpirV(driver) => {
            let options = targets::vulkan_options(driver);
            let kernel = launch.lower(&mut SpirvCompiler, &options)?;
            let shader = kernel.repr.as_ref().expect("a kernel that is compiled");
            let (shared, words) = (shader.shared_size, shader.assembled_module.clone());
            Ok(Compiled::of(kernel, shared, Some(Code::Words(words))))
        }
    }
}

/// What wgpu does with WGSL before a driver gets it, on a device without extensions.
fn validate_wgsl(source: &str) -> Result<(), String> {
    let module =
        naga::front::wgsl::parse_str(source).map_err(|error| error.emit_to_string(source))?;
    naga::valid::Validator::new(
        naga::valid::ValidationFlags::all(),
        naga::valid::Capabilities::empty(),
    )
    .validate(&module)
    .map_err(|error| error.emit_to_string(source))?;
    Ok(())
}

/// Whether `spirv-val` is here.
pub(super) fn has_spirv_val() -> bool {
    Command::new("spirv-val").arg("--version").output().is_ok_and(|run| run.status.success())
}

/// What `spirv-val` says to a module.
pub(super) fn validate_spirv(words: &[u32]) -> Result<(), String> {
    // cubecl-spirv 0.11.3 keeps built-in values in one structure. Drivers take that; for those of
    // subgroups the rules of Vulkan do not, and the rest of the module is held against SPIR-V's own.
    const MEMBERS: &str = "cannot be used as a member decoration";
    match validate_spirv_for("vulkan1.3", words) {
        Err(said) if said.contains(MEMBERS) => validate_spirv_for("spv1.6", words),
        said => said,
    }
}

fn validate_spirv_for(environment: &str, words: &[u32]) -> Result<(), String> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let run = || {
        let mut validator = Command::new("spirv-val")
            .args(["--target-env", environment, "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        validator.stdin.take().expect("a pipe").write_all(&bytes)?;
        validator.wait_with_output()
    };
    let said = run().map_err(|error| format!("spirv-val: {error}"))?;
    if said.status.success() {
        return Ok(());
    }
    Err([said.stdout, said.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat())
}
