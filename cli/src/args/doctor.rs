//! `glm doctor`: which backends are looked at, and how closely.

use clap::Args as ClapArgs;
use glm_backends::device::Selection;

const DOCTOR_HELP: &str = "\
Each device that opens copies in its memory and computes cases of the operations, which have to
agree with the CPU. No case begins after two seconds; --all takes all cases, however long that
takes. A software adapter is only tried when it is asked for by name.

Exit codes: 0 when all that is there works, 1 when a device does not open although its driver is
there, when it computes something else than the CPU, or when the backend of --backend is missing.

Keys of --json: version, features, backends [backend, state (works, absent, not_built_in, fails),
reason, parts [name, path, version, missing, install], devices [device, name, software,
memory_bytes, dtypes, copy_bytes_per_s, cases, all_cases, skipped, failures, seconds]], cache
[folder, files, bytes], ok.";

#[derive(Debug, ClapArgs)]
#[command(after_help = DOCTOR_HELP)]
pub(crate) struct DoctorArgs {
    /// Look at this backend or device only, and fail if it is missing
    #[arg(long, value_name = "BACKEND")]
    pub(crate) backend: Option<Selection>,
    /// Compare every case of every operation with the CPU, without a limit of time
    #[arg(long)]
    pub(crate) all: bool,
    /// Forget which kernels were the fastest on this machine, and find it out again
    #[arg(long)]
    pub(crate) tune: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
