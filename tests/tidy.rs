//! The invariants of ARCHITECTURE.md that a machine can check.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use glm_backends::ops::KERNELS;

/// Crates and what they may depend on inside the workspace.
const EDGES: [(&str, &[&str]); 5] = [
    ("backends", &[]),
    ("models", &["backends"]),
    ("runtime", &["backends", "models"]),
    ("server", &["models", "runtime"]),
    ("cli", &["backends", "models", "runtime", "server"]),
];

#[test]
fn crates_depend_as_drawn() {
    for (crate_name, allowed) in EDGES {
        let manifest = read(&root().join(crate_name).join("Cargo.toml"));
        let used: BTreeSet<&str> = manifest
            .lines()
            .filter_map(|line| line.strip_prefix("glm-")?.split_once(['.', ' ', '=']))
            .map(|(name, _)| name)
            .collect();
        let extra: Vec<_> = used.iter().filter(|name| !allowed.contains(name)).collect();
        assert!(extra.is_empty(), "{crate_name} depends on {extra:?}");
    }
}

#[test]
fn runtime_types_are_no_wire_types() {
    for file in rust_files(&root().join("runtime/src")) {
        // What hubs and files say is read with serde; nothing of ours is written with it.
        let text = read(&file);
        assert!(!text.contains("Serialize"), "{} writes a wire type", relative(&file));
    }
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    for crate_name in
        ["backends", "models", "runtime", "server", "cli", "tests", "tests/loom", "benches"]
    {
        let manifest = read(&root().join(crate_name).join("Cargo.toml"));
        assert!(manifest.contains("[lints]\nworkspace = true"), "{crate_name} has its own lints");
    }
}

#[test]
fn policy_files_hold_no_tensors() {
    let runtime = root().join("runtime/src");
    let mut files = vec![runtime.join("sequence.rs")];
    for folder in ["scheduler", "kv", "draft", "handoff"] {
        let found = rust_files(&runtime.join(folder));
        assert!(!found.is_empty(), "no {folder}");
        let safe = read(&runtime.join(folder).join("mod.rs")).contains("#![forbid(unsafe_code)]");
        assert!(safe, "{folder} may hold unsafe code");
        files.extend(found);
    }
    for file in files {
        let text = read(&file);
        for word in ["burn", "Tensor"] {
            assert!(!text.contains(word), "{} mentions {word}", file.display());
        }
    }
}

#[test]
fn unsafe_stands_where_it_may_and_says_why() {
    let may = |path: &str| {
        ["backends/src/graph.rs", "backends/src/offline/nvrtc.rs"].contains(&path)
            || path == "runtime/src/load/safetensors.rs"
            || path.starts_with("backends/src/cpu/")
            || (path.starts_with("backends/src/ops/")
                && (path.ends_with("/launch.rs") || path.ends_with("/cpu.rs")))
    };
    for file in rust_files(&root()) {
        let name = relative(&file);
        let text = read(&file);
        let mut lines_before: Vec<&str> = Vec::new();
        for line in text.lines() {
            let code = line.split("//").next().unwrap_or_default();
            if code.contains(concat!("unsafe", " {")) || code.contains(concat!("unsafe", " impl")) {
                assert!(may(&name), "{name}: unsafe code outside its places");
                let said = lines_before.iter().rev().take(8).any(|line| line.contains("SAFETY:"));
                assert!(said, "{name}: unsafe code without a SAFETY comment: {line}");
            }
            lines_before.push(line);
        }
    }
}

#[test]
fn every_op_has_its_files_and_its_row() {
    let ops = root().join("backends/src/ops");
    let mut folders: Vec<String> = fs::read_dir(&ops)
        .expect("ops")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().expect("name").to_string_lossy().into_owned())
        .collect();
    folders.sort();
    let named: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
    assert_eq!(folders, named, "folders of ops and rows of KERNELS");
    for folder in folders {
        let has = |file: &str| ops.join(&folder).join(file).is_file();
        for file in ["mod.rs", "reference.rs", "cases.rs"] {
            assert!(has(file), "ops/{folder} has no {file}");
        }
        assert_eq!(has("kernel.rs"), has("launch.rs"), "ops/{folder}: kernel and launch");
    }
    for kernel in KERNELS {
        let labels: BTreeSet<_> = kernel.cases.iter().map(|case| case.label).collect();
        assert_eq!(labels.len(), kernel.cases.len(), "{}: labels are unique", kernel.name);
    }
}

#[test]
fn only_the_program_touches_environment_and_standard_output() {
    for (crate_name, _) in EDGES.iter().filter(|(name, _)| *name != "cli") {
        for file in rust_files(&root().join(crate_name).join("src")) {
            let text = read(&file);
            // Tests may say why they skip.
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            if file.ends_with("tests.rs") {
                continue;
            }
            for word in ["env::var", "println!", "eprintln!", "process::exit"] {
                let used = code
                    .lines()
                    .filter(|line| !line.trim_start().starts_with("//"))
                    .any(|line| line.contains(word));
                assert!(!used, "{} uses {word}", relative(&file));
            }
        }
    }
}

/// Long files are a sign that two rooms share a door: listed, not refused.
#[test]
fn long_files_are_listed() {
    for file in rust_files(&root()) {
        let lines = read(&file).lines().count();
        let exempt = ["cases.rs", "types.rs"].iter().any(|name| file.ends_with(name));
        if lines > 400 && !exempt {
            eprintln!("{} has {lines} lines", relative(&file));
        }
    }
}

#[test]
fn words_that_do_not_belong_here_are_not_here() {
    let listed =
        std::process::Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let Ok(listed) = listed else {
        drop(writeln!(std::io::stderr(), "skipped: no git"));
        return;
    };
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    // Put together here, so that this file does not hold them.
    let words = [["to", "do!("].concat(), ["unimple", "mented!("].concat(), ["FIX", "ME"].concat()];
    for name in names.split('\0').filter(|name| name.ends_with(".rs")) {
        let Ok(text) = fs::read_to_string(root().join(name)) else { continue };
        for word in &words {
            assert!(!text.contains(word.as_str()), "{name} holds {word}");
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn relative(file: &Path) -> String {
    file.strip_prefix(root()).unwrap_or(file).to_string_lossy().replace('\\', "/")
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// All Rust files below a folder; build outputs and the patches of other crates are left out.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("entry").path();
            let name = path.file_name().expect("name").to_string_lossy().into_owned();
            if path.is_dir()
                && !["target", "patches"].contains(&name.as_str())
                && !name.starts_with('.')
            {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}
