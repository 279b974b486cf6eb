//! Compiles the kernels that glm's ops launch for AMD's GPUs, without a GPU and without ROCm:
//! through LLVM to code objects, as cubecl-hip does by default, and to C++, as glm has it do, which
//! `clang` then compiles.
//!
//! `compile.sh` beside it prepares what this needs, and starts it:
//!
//!     glm-offline-rocm OUT CLANG HEADERS BITCODE
//!
//! OUT is a folder for code objects, sources and logs, CLANG a compiler that knows AMD's targets,
//! HEADERS those of HIP or what stands in for them, BITCODE a folder of ROCm's device libraries.
//!
//! LLVM ends the process on an instruction that it cannot select, so each target is compiled in a
//! process of its own, which is started again behind the kernel that ended it.

mod clang;
mod job;
mod object;
mod report;
mod worker;

use std::env;
use std::path::Path;
use std::process::ExitCode;

use clang::Clang;
use job::{Job, Route};
use report::Report;

/// MI300X with planes of 64 units, RDNA3 with planes of 32.
const ARCHITECTURES: [&str; 2] = ["gfx942", "gfx1100"];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (out, clang) = match arguments[..] {
        ["worker", architecture, route, out, first] => {
            return worker::run(Job::named(architecture, route), Path::new(out), first);
        }
        [out, program, headers, bitcode] => {
            let (program, headers) = (program.into(), headers.into());
            (Path::new(out), Clang { program, headers, bitcode: bitcode.into() })
        }
        _ => {
            eprintln!("glm-offline-rocm OUT CLANG HEADERS BITCODE");
            return ExitCode::FAILURE;
        }
    };
    // One architecture a thread: two compilers at a time.
    let reports: Vec<[Report; 3]> = std::thread::scope(|scope| {
        let started: Vec<_> = ARCHITECTURES
            .into_iter()
            .map(|architecture| scope.spawn(|| compile(architecture, out, &clang)))
            .collect();
        started.into_iter().map(|thread| thread.join().expect("a thread")).collect()
    });
    let reports: Vec<Report> = reports.into_iter().flatten().collect();
    for report in &reports {
        print!("{report}");
    }
    for report in &reports {
        println!("{}", report.summary());
    }
    match reports.iter().all(|report| report.failed() == 0) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// All routes of an architecture.
fn compile(architecture: &'static str, out: &Path, clang: &Clang) -> [Report; 3] {
    let [objects, sources] = [Route::Llvm, Route::Cpp].map(|route| {
        let job = Job { architecture, route };
        let outcomes = worker::all(job, out);
        Report { job, compiler: route.compiler(), outcomes, left_out: 0 }
    });
    let compiled = clang.compile(&sources);
    [objects, sources, compiled]
}
