//! Every tensor that a configuration leads to expect, against the files of checkpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use glm_models::config::Config;
use glm_models::inventory::{Form, Part, TensorEntry};
use glm_models::plan::{Prediction, stored_sizes};
use glm_models::weights::{StoredDtype, TensorSource};
use glm_runtime::load::{Checkpoint, indexed_bytes, read_config};

use crate::support::oracle::reference;

#[test]
fn the_built_in_model_and_the_fixtures() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    check(&here.join("../cli/assets/glm-tiny"));
    for name in
        ["glm4_moe_tiny", "glm4_moe_tiny_groups", "glm4_moe_lite_tiny", "glm4_moe_lite_tiny_direct"]
    {
        check(&here.join("fixtures").join(name));
    }
}

#[test]
fn the_reference_checkpoints() {
    for name in [
        "air-tiny",
        "m355-tiny",
        "lite-tiny",
        "air-tiny-fp8",
        "m355-tiny-fp8",
        "glm-tiny",
        "glm-tiny-fp8",
        "glm-tiny-weakmtp",
    ] {
        let Some(folder) = reference(name) else { continue };
        check(&folder);
    }
}

/// The files hold what the inventory says, and nothing else: names, shapes, which matrices are FP8,
/// and the bytes of it all.
fn check(folder: &Path) {
    let config = read_config(folder).expect("config.json");
    let checkpoint = Checkpoint::open(folder).expect("weights");
    let mut stored: BTreeMap<String, (Vec<usize>, StoredDtype)> = BTreeMap::new();
    for name in checkpoint.names() {
        let info = checkpoint.info(&name).expect("listed");
        stored.insert(name, (info.shape, info.dtype));
    }
    let at = folder.display();
    let scales = stored.keys().filter_map(|name| name.strip_suffix("_scale"));
    let scaled: BTreeSet<String> = scales.map(str::to_owned).collect();
    stored.retain(|name, _| !name.ends_with(".weight_scale"));

    let mut wanted = BTreeSet::new();
    for TensorEntry { name, shape, part, form, mtp } in config.inventory() {
        let Some((found, dtype)) = stored.remove(&name) else {
            let may_lack = mtp && matches!(part, Part::Embedding | Part::Head);
            assert!(may_lack, "{at}: {name} is not there");
            continue;
        };
        assert_eq!(found, shape, "{at}: {name}");
        if form == Form::Matrix && is_fp8(&config, &name) {
            wanted.insert(name.clone());
        }
        let kept = match form {
            Form::Wide => dtype == StoredDtype::F32,
            _ if wanted.contains(&name) => dtype == StoredDtype::F8E4M3,
            Form::Matrix | Form::Plain => dtype != StoredDtype::F8E4M3,
        };
        assert!(kept, "{at}: {name} is {dtype}");
    }
    assert!(stored.is_empty(), "{at}: more than expected: {stored:?}");
    assert_eq!(scaled, wanted, "{at}: matrices with scales");

    let sizes = stored_sizes(&config);
    let found = checkpoint.total_bytes();
    let named = sizes.iter().find(|size| size.bytes == found);
    assert!(named.is_some_and(|size| size.prediction == Prediction::Whole), "{at}: {found}");
    if let Some(indexed) = indexed_bytes(folder).expect("readable") {
        assert_eq!(indexed, found, "{at}");
    }
}

fn is_fp8(config: &Config, name: &str) -> bool {
    let module = name.strip_suffix(".weight").expect("a weight");
    config.quantization().is_some_and(|quantization| !quantization.ignores(module))
}

/// The two counts that are known of the published checkpoints.
#[test]
fn counts_of_the_published_checkpoints() {
    for (name, tensors, elements) in
        [("GLM-4.7", 44_691, 358_337_791_296_u64), ("GLM-4.7-Flash", 9_703, 31_221_488_576)]
    {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/configs");
        let path = PathBuf::from(folder).join(format!("{name}.json"));
        let Ok(text) = std::fs::read_to_string(&path) else {
            eprintln!("skipped: no {}", path.display());
            continue;
        };
        let inventory = Config::from_json(&text, &path).expect("reads").inventory();
        assert_eq!(inventory.len(), tensors, "{name}");
        let sizes = inventory.iter().map(|entry| entry.shape.iter().product::<usize>() as u64);
        assert_eq!(sizes.sum::<u64>(), elements, "{name}");
        let names: BTreeSet<_> = inventory.iter().map(|entry| &entry.name).collect();
        assert_eq!(names.len(), tensors, "{name}: no name comes twice");
    }
}
