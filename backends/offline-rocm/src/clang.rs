//! From HIP C++ to code objects, by a `clang` that is not ROCm's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::object;
use crate::report::{Built, Outcome, Report};

/// What kernels with matrices include. It is ROCm's, and nothing here stands in for it.
const ROCWMMA: &str = "rocwmma/rocwmma.hpp";

/// A `clang` that knows AMD's targets.
pub(crate) struct Clang {
    pub(crate) program: PathBuf,
    /// The headers of HIP: ROCm's, or what stands in for them.
    pub(crate) headers: PathBuf,
    /// ROCm's device libraries.
    pub(crate) bitcode: PathBuf,
}

impl Clang {
    /// Compiles the sources of a report.
    pub(crate) fn compile(&self, sources: &Report) -> Report {
        let job = sources.job;
        let mut report = Report { job, compiler: "clang", outcomes: Vec::new(), left_out: 0 };
        for source in &sources.outcomes {
            let Ok(built) = &source.result else { continue };
            let text = fs::read_to_string(&built.file).expect("a source that was written");
            if text.contains(ROCWMMA) && !self.headers.join(ROCWMMA).is_file() {
                report.left_out += 1;
                continue;
            }
            let result = self.build(job.architecture, built, &text);
            report.outcomes.push(Outcome { result, ..source.clone() });
        }
        report
    }

    fn build(&self, architecture: &str, source: &Built, text: &str) -> Result<Built, String> {
        let wide = architecture == "gfx942";
        let mut clang = Command::new(&self.program);
        clang
            .args(["-x", "hip", "--cuda-device-only", "-nogpuinc", "-nogpulib", "-w"])
            .arg(format!("--offload-arch={architecture}"))
            .args(["-std=c++17", "-O3", "-mcode-object-version=5", "--no-gpu-bundle-output"])
            .arg("-ferror-limit=3")
            .arg("-I")
            .arg(&self.headers)
            .args(["-include", "__clang_hip_runtime_wrapper.h", "-include", "hip/hip_runtime.h"]);
        for library in libraries(architecture, wide) {
            let library = self.bitcode.join(library);
            clang.args(["-Xclang", "-mlink-builtin-bitcode", "-Xclang"]).arg(library);
        }
        let mut file = source.file.clone();
        if self.headers.join("hip/amd_detail").is_dir() {
            // ROCm's headers beside those of the C++ library, as hipRTC's own are not to be had.
            // Their integers and CubeCL's are typedefs of different types of the same size.
            clang.args(["-D__HIP_PLATFORM_AMD__", "-include", "hip/hip_fp16.h"]);
            clang.arg(format!("-D__AMDGCN_WAVEFRONT_SIZE={}", if wide { 64 } else { 32 }));
            file = file.with_extension("full.hip");
            let integers = |line: &&str| !(line.starts_with("typedef ") && line.ends_with("_t;"));
            let lines: Vec<&str> = text.lines().filter(integers).collect();
            fs::write(&file, lines.join("\n")).map_err(|error| error.to_string())?;
        } else {
            clang.arg("-D__HIPCC_RTC__");
        }
        let object = source.file.with_extension("co");
        let run = clang
            .arg("-c")
            .arg(&file)
            .arg("-o")
            .arg(&object)
            .output()
            .map_err(|error| format!("{}: {error}", self.program.display()))?;
        if !run.status.success() {
            return Err(first_error(&String::from_utf8_lossy(&run.stderr), &file));
        }
        let bytes = fs::read(&object).map_err(|error| format!("{}: {error}", object.display()))?;
        let resources = Some(object::check(&bytes, architecture, &source.entry)?);
        Ok(Built { resources, file: object, ..source.clone() })
    }
}

/// What hipRTC links with: mathematics, and the constants that choose among their forms.
fn libraries(architecture: &str, wide: bool) -> Vec<String> {
    let version = architecture.trim_start_matches("gfx");
    let wide = if wide { "on" } else { "off" };
    vec![
        "ocml.bc".into(),
        "ockl.bc".into(),
        "oclc_daz_opt_off.bc".into(),
        "oclc_unsafe_math_off.bc".into(),
        "oclc_finite_only_off.bc".into(),
        "oclc_correctly_rounded_sqrt_on.bc".into(),
        format!("oclc_wavefrontsize64_{wide}.bc"),
        format!("oclc_isa_version_{version}.bc"),
        "oclc_abi_version_500.bc".into(),
    ]
}

/// The first error without its place in a source, so that equal ones are one row of the report.
fn first_error(said: &str, source: &Path) -> String {
    let error = said.lines().find(|line| line.contains("error: ")).unwrap_or(said);
    let source = source.display().to_string();
    match error.split_once("error: ") {
        Some((place, error)) if place.contains(&source) => error.to_owned(),
        Some((place, error)) => format!("{error}, in {}", place.trim_end_matches(' ')),
        None => error.to_owned(),
    }
}
