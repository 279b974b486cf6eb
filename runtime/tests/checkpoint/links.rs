use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use glm_runtime::load::{ModelFiles, read_config};
use serde_json::json;
use tempfile::TempDir;

use crate::folder::small_files;
use crate::{SINGLE, file, message};

const INDEX: &str = "model.safetensors.index.json";
const SHARD: &str = "model-00001-of-00001.safetensors";
/// Every file that is read of a folder with shards.
const FILES: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    INDEX,
    SHARD,
];

/// A model of one shard in `folder`.
fn write_model(folder: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    for (name, contents) in small_files() {
        fs::write(folder.join(name), contents.to_string()).expect("writable");
    }
    fs::write(folder.join("generation_config.json"), "{}").expect("writable");
    fs::write(folder.join("tokenizer_config.json"), "{}").expect("writable");
    fs::write(folder.join("chat_template.jinja"), "hi").expect("writable");
    let index = json!({"weight_map": {"a": SHARD}}).to_string();
    fs::write(folder.join(INDEX), index).expect("writable");
    fs::write(folder.join(SHARD), file(&[("a", 1)])).expect("writable");
}

/// A temporary folder by its canonical path, which is what errors name.
fn temporary() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().canonicalize().expect("there");
    (folder, path)
}

/// Moves `folder/name` to `target` and leaves the link `text` in its place.
fn move_and_link(folder: &Path, name: &str, target: &Path, text: &Path) {
    fs::rename(folder.join(name), target).expect("moved");
    symlink(text, folder.join(name)).expect("linked");
}

fn refused(folder: &Path, name: &str, target: &Path) {
    let wanted = format!(
        "DIR/{name}: a link to {}, wanted a file of this folder, or of `blobs` in the same hub \
         cache",
        target.display()
    );
    let error = ModelFiles::open(folder).expect_err(&wanted);
    assert_eq!(message(&error, folder), wanted.replace(&folder.display().to_string(), "DIR"));
}

#[test]
fn no_file_may_link_out_of_the_folder() {
    for name in FILES {
        let (_held, root) = temporary();
        let folder = root.join("model");
        write_model(&folder);
        let outside = root.join("elsewhere");
        move_and_link(&folder, name, &outside, Path::new("../elsewhere"));
        refused(&folder, name, &outside);
        // An absolute link, and one that passes through the folder on its way out.
        fs::remove_file(folder.join(name)).expect("removed");
        symlink(&outside, folder.join("step")).expect("linked");
        symlink("step", folder.join(name)).expect("linked");
        refused(&folder, name, &outside);
    }
}

#[test]
fn the_single_file_may_not_either() {
    let (_held, root) = temporary();
    let folder = root.join("model");
    write_model(&folder);
    fs::write(root.join(SINGLE), file(&[("a", 1)])).expect("writable");
    symlink(root.join(SINGLE), folder.join(SINGLE)).expect("linked");
    refused(&folder, SINGLE, &root.join(SINGLE));
}

#[test]
fn a_configuration_alone_may_not_either() {
    let (_held, root) = temporary();
    let folder = root.join("model");
    write_model(&folder);
    read_config(&folder).expect("no link");
    move_and_link(&folder, "config.json", &root.join("c"), Path::new("../c"));
    let error = read_config(&folder).expect_err("a link");
    assert!(error.to_string().contains("config.json: a link to "), "{error}");
}

#[test]
fn a_folder_whose_name_begins_alike_is_outside() {
    let (_held, root) = temporary();
    let (folder, beside) = (root.join("model"), root.join("model-2"));
    write_model(&folder);
    fs::create_dir(&beside).expect("a folder");
    move_and_link(&folder, SHARD, &beside.join(SHARD), &beside.join(SHARD));
    refused(&folder, SHARD, &beside.join(SHARD));
}

#[test]
fn links_inside_the_folder_and_to_the_folder_are_followed() {
    let (_held, root) = temporary();
    let folder = root.join("model");
    write_model(&folder);
    fs::create_dir(folder.join("weights")).expect("a folder");
    move_and_link(&folder, SHARD, &folder.join("weights/1"), Path::new("weights/1"));
    symlink(&folder, root.join("link")).expect("linked");
    for path in [folder, root.join("link")] {
        ModelFiles::open(&path).expect("opens");
    }
}

/// The snapshot `models--owner--name/snapshots/0123` of a hub cache under `root`.
fn write_snapshot(root: &Path) -> PathBuf {
    let repository = root.join("models--owner--name");
    let snapshot = repository.join("snapshots").join("0123");
    write_model(&snapshot);
    fs::create_dir(repository.join("blobs")).expect("a folder");
    for (number, name) in FILES.into_iter().enumerate() {
        let blob = format!("{number:040x}");
        let target = repository.join("blobs").join(&blob);
        move_and_link(&snapshot, name, &target, &Path::new("../../blobs").join(blob));
    }
    snapshot
}

#[test]
fn snapshots_of_the_hub_cache_link_to_their_blobs() {
    let (_held, root) = temporary();
    let snapshot = write_snapshot(&root);
    ModelFiles::open(&snapshot).expect("opens");
    symlink(&snapshot, root.join("link")).expect("linked");
    ModelFiles::open(&root.join("link")).expect("opens");
}

#[test]
fn the_hub_cache_is_no_way_out() {
    let (_held, root) = temporary();
    let snapshot = write_snapshot(&root);
    let repository = root.join("models--owner--name");
    let other = root.join("models--other--name").join("blobs");
    fs::create_dir_all(&other).expect("a folder");
    let blob = repository.join("blobs").join(format!("{:040x}", FILES.len() - 1));
    // A blob that is itself a link, another repository's blob, a file that is no blob.
    for target in [root.join("secret"), other.join("1"), repository.join("refs")] {
        fs::rename(&blob, &target).expect("moved");
        symlink(&target, &blob).expect("linked");
        refused(&snapshot, SHARD, &target);
        fs::rename(&target, &blob).expect("moved back");
    }
    ModelFiles::open(&snapshot).expect("opens");
    // The same layout under another name is no cache.
    let renamed = root.join("owner--name");
    fs::rename(&repository, &renamed).expect("moved");
    refused(&renamed.join("snapshots/0123"), FILES[0], &renamed.join("blobs").join("0".repeat(40)));
}

#[test]
fn a_link_to_nothing_is_a_file_that_is_not_there() {
    let (_held, root) = temporary();
    write_model(&root);
    fs::remove_file(root.join(SHARD)).expect("removed");
    symlink("../nothing", root.join(SHARD)).expect("linked");
    let error = ModelFiles::open(&root).expect_err("no shard");
    let wanted = format!("DIR/{INDEX}: 1 of 1 shards are missing, the first is {SHARD}");
    assert_eq!(message(&error, &root), wanted);
}
