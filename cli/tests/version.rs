//! The binary starts. Being an integration test of this package, it also has Cargo build
//! the binary that the tests of the workspace run.

use std::process::Command;

#[test]
fn the_version_is_that_of_the_package() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_glm")).arg("--version").output().expect("glm starts");
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        concat!("glm ", env!("CARGO_PKG_VERSION"), "\n")
    );
}
