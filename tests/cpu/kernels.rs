//! The kernels for the CPU (`backends/src/cpu`) without the crates of backends, so that a compiler for
//! another machine, or one that watches every access to memory, has little to compile:
//!
//! - with `-Zsanitizer=address`, reads and writes outside of what was allocated are found
//! - for `aarch64-unknown-linux-gnu` and an emulator, NEON is tested on any machine
//!
//! CONTRIBUTING.md has the commands.

#![expect(dead_code, unused_imports, unreachable_pub, reason = "backends uses the rest")]

#[path = "../../backends/src/cpu/mod.rs"]
mod cpu;
