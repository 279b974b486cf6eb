use std::io::Write as _;
use std::path::Path;

use glm_models::weights::{StoredDtype, TensorSource};
use glm_runtime::load::{Checkpoint, ModelFiles};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use crate::{SINGLE, file, folder, message};

const INDEX: &str = "model.safetensors.index.json";
const A: &str = "a.safetensors";
const B: &str = "second part.bin";

fn index(weight_map: &Value) -> Vec<u8> {
    json!({"metadata": {"total_size": 1}, "weight_map": weight_map}).to_string().into_bytes()
}

fn refused(files: &[(&str, &[u8])], wanted: &str) {
    let folder = folder(files);
    let error = Checkpoint::open(folder.path()).expect_err(wanted);
    assert_eq!(message(&error, folder.path()), wanted);
}

#[test]
fn single_file() {
    let folder = folder(&[(SINGLE, &file(&[("x.weight", 3), ("a.weight", 5), ("empty", 0)]))]);
    let checkpoint = Checkpoint::open(folder.path()).expect("opens");
    assert_eq!(checkpoint.names(), ["a.weight", "empty", "x.weight"]);
    let info = checkpoint.info("a.weight").expect("there");
    assert_eq!((info.dtype, info.shape), (StoredDtype::Bf16, vec![1, 5]));
    assert_eq!(checkpoint.bytes("a.weight"), Some(&[b'a'; 10][..]));
    assert_eq!(checkpoint.bytes("empty"), Some(&[][..]));
    assert_eq!((checkpoint.info("b.weight"), checkpoint.bytes("b.weight")), (None, None));
    assert_eq!(checkpoint.total_bytes(), 16);
}

#[test]
fn shards_of_any_name() {
    let map = index(&json!({"a.weight": A, "b.weight": B}));
    // `stray` is in a shard but not in the index: present all the same.
    let files: [(&str, &[u8]); 3] = [
        (INDEX, &map),
        (A, &file(&[("a.weight", 2)])),
        (B, &file(&[("b.weight", 4), ("stray", 1)])),
    ];
    let folder = folder(&files);
    let checkpoint = Checkpoint::open(folder.path()).expect("opens");
    assert_eq!(checkpoint.names(), ["a.weight", "b.weight", "stray"]);
    assert_eq!(checkpoint.bytes("b.weight"), Some(&[b'b'; 8][..]));
    assert_eq!(checkpoint.total_bytes(), 14);
}

#[test]
fn single_file_wins_over_an_index() {
    let folder = folder(&[(SINGLE, &file(&[("one", 1)])), (INDEX, b"not read")]);
    assert_eq!(Checkpoint::open(folder.path()).expect("opens").names(), ["one"]);
}

#[test]
fn every_stored_type() {
    for (dtype, stored) in [
        (Dtype::BF16, StoredDtype::Bf16),
        (Dtype::F16, StoredDtype::F16),
        (Dtype::F32, StoredDtype::F32),
        (Dtype::F8_E4M3, StoredDtype::F8E4M3),
        (Dtype::I64, StoredDtype::Other("I64".into())),
        (Dtype::F8_E5M2, StoredDtype::Other("F8_E5M2".into())),
    ] {
        let bytes = vec![0; dtype.bitsize() / 8 * 6];
        let view = TensorView::new(dtype, vec![2, 3], &bytes).expect("sizes agree");
        let file = safetensors::serialize([("x", view)], None).expect("a valid file");
        let folder = folder(&[(SINGLE, &file)]);
        let info = Checkpoint::open(folder.path()).expect("opens").info("x").expect("there");
        assert_eq!((info.dtype, info.shape), (stored, vec![2, 3]));
    }
}

#[test]
fn released_tensors_read_the_same_again() {
    // Several pages each, and none starts at a page's start.
    let file = file(&[("a", 10_000), ("b", 10_001), ("c", 10_002), ("d", 0)]);
    let folder = folder(&[(SINGLE, &file)]);
    let checkpoint = Checkpoint::open(folder.path()).expect("opens");
    for name in ["b", "a", "d", "c", "b", "not there"] {
        checkpoint.release(name);
    }
    for (name, length) in [("a", 10_000), ("b", 10_001), ("c", 10_002)] {
        assert_eq!(checkpoint.bytes(name), Some(&vec![name.as_bytes()[0]; 2 * length][..]));
    }
}

/// Kilobytes of `file`'s maps that are in this process's memory; `None` where the system does
/// not say.
fn resident(file: &Path) -> Option<u64> {
    let maps = std::fs::read_to_string("/proc/self/smaps").ok()?;
    let mut lines = maps.lines().skip_while(|line| !line.ends_with(&*file.to_string_lossy()));
    let resident = lines.find_map(|line| line.strip_prefix("Rss:"))?;
    resident.trim().strip_suffix(" kB")?.parse().ok()
}

#[test]
fn released_tensors_leave_memory() {
    let folder = folder(&[(SINGLE, &file(&[("a", 1_000_000), ("b", 1_000_000)]))]);
    let path = folder.path().join(SINGLE);
    let checkpoint = Checkpoint::open(folder.path()).expect("opens");
    for name in ["a", "b"] {
        let bytes = checkpoint.bytes(name).expect("there");
        assert!(bytes.iter().all(|&byte| byte == name.as_bytes()[0]));
    }
    let Some(both) = resident(&path).filter(|&both| both > 0) else {
        drop(writeln!(
            std::io::stderr(),
            "skipped: no /proc/self/smaps that counts the pages of a map"
        ));
        return;
    };
    checkpoint.release("a");
    let one = resident(&path).expect("still mapped");
    assert!(one < both * 2 / 3, "{both} kB of both, {one} kB of one");
}

#[test]
fn inside_the_program() {
    let bytes: &'static [u8] = file(&[("a", 3)]).leak();
    let checkpoint = Checkpoint::from_bytes(bytes).expect("opens");
    checkpoint.release("a");
    assert_eq!(checkpoint.bytes("a"), Some(&[b'a'; 6][..]));
    let debug = format!("{checkpoint:?}");
    assert!(debug.contains("total_bytes: 6") && debug.len() < 200, "{debug}");

    let error = Checkpoint::from_bytes(&bytes[..bytes.len() - 1]).expect_err("cut");
    assert!(error.to_string().starts_with("built-in/model.safetensors: "), "{error}");
}

#[test]
fn no_folder() {
    let folder = folder(&[("file", b"")]);
    for (name, found) in [("absent", "nothing there"), ("file", "a file")] {
        let path = folder.path().join(name);
        let wanted = format!("DIR/{name}: {found}, wanted a model folder");
        let error = Checkpoint::open(&path).expect_err(name);
        assert_eq!(message(&error, folder.path()), wanted);
        let error = ModelFiles::open(&path).expect_err(name);
        assert_eq!(message(&error, folder.path()), wanted);
    }
}

#[test]
fn no_weights() {
    let none = "DIR: no weights: neither model.safetensors nor model.safetensors.index.json;";
    refused(&[], &format!("{none} the folder is empty"));
    refused(
        &[("config.json", b""), ("pytorch_model.bin", b""), ("glm.gguf", b"")],
        &format!("{none} it holds glm.gguf, pytorch_model.bin, config.json"),
    );
    let shards: Vec<String> =
        (0..14).map(|shard| format!("model-{shard:02}.safetensors")).collect();
    let files: Vec<(&str, &[u8])> = shards.iter().map(|name| (name.as_str(), &[][..])).collect();
    refused(&files, &format!("{none} it holds {} and 2 more", shards[..12].join(", ")));
}

#[test]
fn missing_shards() {
    let map = index(&json!({"a": A, "b": "b.safetensors", "c": "c.safetensors", "d": A}));
    refused(
        &[(INDEX, &map), (A, &file(&[("a", 1), ("d", 1)]))],
        "DIR/model.safetensors.index.json: 2 of 3 shards are missing, the first is b.safetensors",
    );
}

#[test]
fn tensor_that_is_not_in_its_shard() {
    let map = index(&json!({"a": A, "b": A, "c": B}));
    let first = file(&[("a", 1)]);
    let wanted =
        "DIR/a.safetensors: no tensor `b`, which model.safetensors.index.json says is there";
    refused(&[(INDEX, &map), (A, &first), (B, &file(&[("c", 1)]))], wanted);
    // Nor does it help that another shard holds it.
    refused(&[(INDEX, &map), (A, &first), (B, &file(&[("b", 1), ("c", 1)]))], wanted);
}

#[test]
fn tensor_in_two_shards() {
    let map = index(&json!({"a": A, "b": B}));
    refused(
        &[(INDEX, &map), (A, &file(&[("a", 1)])), (B, &file(&[("a", 1), ("b", 1)]))],
        "tensor `a`: found in both DIR/a.safetensors and DIR/second part.bin, wanted in one",
    );
}

#[test]
fn broken_index() {
    let form = "not a list of shards, wanted {\"weight_map\": {tensor: file}}";
    for (text, cause) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{\"weight_map\"", "EOF while parsing an object at line 1 column 13"),
        ("{}", "missing field `weight_map` at line 1 column 2"),
        (
            "{\"weight_map\": {\"a\": 1}}",
            "invalid type: integer `1`, expected a string at line 1 column 22",
        ),
    ] {
        refused(&[(INDEX, text.as_bytes())], &format!("DIR/{INDEX}: {form}: {cause}"));
    }
    refused(&[(INDEX, &index(&json!({})))], &format!("DIR/{INDEX}: `weight_map` is empty"));
}

#[test]
fn index_that_points_out_of_the_folder() {
    let outside = folder(&[(SINGLE, &file(&[("a", 1)]))]);
    let absolute = outside.path().join(SINGLE).display().to_string();
    for name in [
        "..",
        "../a.safetensors",
        "sub/a.safetensors",
        "./a.safetensors",
        "a\\b",
        "C:a",
        "",
        &absolute,
    ] {
        let map = index(&json!({"a": name}));
        refused(
            &[(INDEX, &map), (A, &file(&[("a", 1)]))],
            &format!(
                "DIR/{INDEX}: tensor `a` is in `{name}`, wanted the plain name of a file in this \
                 folder"
            ),
        );
    }
}

#[test]
fn truncated_shard() {
    let whole = file(&[("a", 50), ("b", 50)]);
    let length = whole.len();
    for found in [9, 40, length - 200, length - 1] {
        // Where the header itself is cut, only its own end is known.
        let wanted = if found < length - 200 { length - 200 } else { length };
        refused(
            &[(SINGLE, &whole[..found])],
            &format!(
                "DIR/{SINGLE}: {found} bytes, wanted {wanted} by its header: the file is truncated, \
                 fetch it again"
            ),
        );
    }
    for found in [0, 7] {
        refused(
            &[(SINGLE, &whole[..found])],
            &format!(
                "DIR/{SINGLE}: {found} bytes, wanted 8 by its header: the file is truncated, fetch it \
                 again"
            ),
        );
    }
    let longer = [&whole[..], &[0; 3]].concat();
    let found = longer.len();
    refused(
        &[(SINGLE, &longer)],
        &format!("DIR/{SINGLE}: {found} bytes, wanted {length} by its header"),
    );
}

#[test]
fn corrupt_header() {
    let not = format!("DIR/{SINGLE}: not a safetensors file");
    let mut whole = file(&[("a", 50)]);
    whole[8] = b'[';
    let folder = folder(&[(SINGLE, &whole)]);
    let error = Checkpoint::open(folder.path()).expect_err("no JSON");
    let text = message(&error, folder.path());
    assert!(text.starts_with(&format!("{not}: invalid JSON in header: ")), "{text}");

    refused(&[(SINGLE, b"<!DOCTYPE html><p>Not found")], &format!("{not}: header too large"));
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n";
    refused(
        &[(SINGLE, pointer)],
        &format!(
            "DIR/{SINGLE}: a git-lfs pointer, wanted the weights themselves: run `git lfs pull`"
        ),
    );
    let header = br#"{"a":{"dtype":"BF16","shape":[3],"data_offsets":[0,4]}}"#;
    let file = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
    refused(&[(SINGLE, &file)], &format!("{not}: invalid shape, data type, or offset for tensor"));
}
