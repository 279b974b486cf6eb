//! Clients that people use, against the built-in model. They are Python packages: where
//! `GLM_TEST_CLIENTS` does not name a Python that has them, this is skipped.
#![expect(clippy::disallowed_methods, reason = "the Python is chosen by the environment")]

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use super::TestServer;

/// Runs a script of `tests/clients` with the address of a server.
fn run(program: &OsStr, script: &str, more: &[&OsStr]) {
    let server = TestServer::start(|_| (), |_| ());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(script);
    let output = Command::new(program).arg(&script).arg(server.url()).args(more).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}:\n{out}\n{err}", script.display());
    drop(writeln!(std::io::stderr(), "{out}"));
}

fn run_python(script: &str) {
    match std::env::var_os("GLM_TEST_CLIENTS").filter(|python| !python.is_empty()) {
        Some(python) => run(&python, script, &[]),
        None => {
            let why = "GLM_TEST_CLIENTS names no Python with the clients' packages";
            drop(writeln!(std::io::stderr(), "skipped: {why}"));
        }
    }
}

#[test]
fn the_openai_package() {
    run_python("openai_client.py");
}

#[test]
fn the_anthropic_package() {
    run_python("anthropic_client.py");
}

#[test]
fn schemathesis_finds_no_answer_that_the_description_does_not_have() {
    run_python("description.py");
}

#[test]
fn the_evaluation_harness() {
    run_python("harness.py");
}

/// `GLM_TEST_BROWSER` names Chromium; node drives it.
#[test]
fn the_page_in_a_browser() {
    match std::env::var_os("GLM_TEST_BROWSER").filter(|browser| Path::new(browser).is_file()) {
        Some(browser) => run(OsStr::new("node"), "page.mjs", &[&browser]),
        None => drop(writeln!(std::io::stderr(), "skipped: GLM_TEST_BROWSER names no Chromium")),
    }
}
