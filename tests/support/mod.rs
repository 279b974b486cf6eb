//! What several test modules share.

pub(crate) mod checkpoint;
pub(crate) mod fp8;
pub(crate) mod oracle;

use std::path::PathBuf;
use std::process::Command;

/// The `glm` binary of the same build, ready for arguments: offline, without colour
/// settings of the caller, and with backtraces asked for (it must not print them).
pub(crate) fn glm_command() -> Command {
    let mut command = Command::new(glm_binary());
    command.env("HF_HUB_OFFLINE", "1").env("RUST_BACKTRACE", "1");
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "HF_HOME", "HF_HUB_CACHE", "HF_TOKEN"] {
        command.env_remove(name);
    }
    command
}

/// Test binaries lie in `target/<profile>/deps`, the program one folder above.
fn glm_binary() -> PathBuf {
    let this = std::env::current_exe().expect("a test knows its own path");
    let name = format!("glm{}", std::env::consts::EXE_SUFFIX);
    let candidates = this.ancestors().skip(1).take(2).map(|folder| folder.join(&name));
    candidates.into_iter().find(|path| path.is_file()).unwrap_or_else(|| {
        panic!(
            "no `{name}` near {}: `cargo test --workspace` builds it, or build it first with \
             `cargo build` in the same profile",
            this.display()
        )
    })
}
