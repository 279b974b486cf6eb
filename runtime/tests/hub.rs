//! Models from a stand-in of the hubs. Every test looks at the requests that it got.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use glm_runtime::hub::{Hub, HubConfig, HubError, Wanted, resolve};

#[path = "hub/stand_in.rs"]
mod stand_in;

use stand_in::{FIRST, Fixture, INDEX, MODEL, NEW, OLD, SECOND, WHOLE, files, hash, serve};

/// Where a connection is cut.
const BREAK: usize = 70_000;

#[test]
fn downloads_everything_once_and_shows_the_token_to_the_hub_only() {
    let mut fixture = Fixture::new(Hub::HuggingFace);
    fixture.config.token = Some("secret".to_owned());
    let folder = fixture.resolve_to(OLD);
    assert_eq!(folder, fixture.cache(&format!("models--zai-org--tiny/snapshots/{OLD}")));
    assert_eq!(fs::read_to_string(fixture.cache("models--zai-org--tiny/refs/main")).unwrap(), OLD);
    let blob = format!("../../blobs/{}", hash(&files(1)[FIRST]));
    assert_eq!(fs::read_link(folder.join(FIRST)).unwrap(), Path::new(&blob));

    let requests = fixture.requests();
    assert!(requests.iter().all(|request| request.authorization.is_some() == request.at_hub));
    let agent = concat!("glm/", env!("CARGO_PKG_VERSION"));
    assert!(requests.iter().all(|request| request.user_agent.as_deref() == Some(agent)));
    assert_eq!(requests.iter().filter(|request| !request.at_hub).count(), 2, "{requests:#?}");
    let updates = fixture.log.updates.lock().unwrap();
    assert_eq!(updates.last().unwrap(), &(SECOND.to_owned(), 6, 6, 100_000, 100_000));

    fixture.resolve_to(OLD);
    let again = fixture.requests();
    assert_eq!(again.len(), 1, "{again:#?}");
    assert_eq!(again[0].path, "/api/models/zai-org/tiny/revision/main");
}

#[test]
fn a_broken_transfer_continues_where_it_stopped() {
    for hub in [Hub::HuggingFace, Hub::ModelScope] {
        let fixture = Fixture::new(hub);
        fixture.model().breaks = Some((SECOND, BREAK));
        let error = fixture.resolve().unwrap_err();
        assert!(
            matches!(error, HubError::Interrupted { done: 70_000, total: 100_000, .. }),
            "{error}"
        );
        fixture.requests();
        fixture.resolve_to(OLD);
        let requests = fixture.requests();
        let range = Some(format!("bytes={BREAK}-"));
        let rest: Vec<_> = requests.iter().filter(|request| request.range == range).collect();
        assert!(rest.iter().all(|request| request.path.ends_with(SECOND)), "{requests:#?}");
        let sent: usize =
            requests.iter().map(|request| request.sent).filter(|sent| *sent > 9999).sum();
        assert_eq!(sent, 100_000 - BREAK, "{requests:#?}");
    }
}

#[test]
fn a_broken_transfer_is_tried_again_in_the_same_run() {
    let mut fixture = Fixture::new(Hub::HuggingFace);
    fixture.config.max_retries = 1;
    fixture.model().breaks = Some((FIRST, BREAK));
    fixture.resolve_to(OLD);
    let notes = fixture.log.notes.lock().unwrap();
    assert!(notes.len() == 1 && notes[0].contains("trying again (1 of 1)"), "{notes:?}");
    let ranges = fixture.requests().into_iter().filter_map(|request| request.range);
    assert_eq!(ranges.filter(|range| *range == format!("bytes={BREAK}-")).count(), 2);
}

#[test]
fn other_bytes_than_announced_are_not_kept() {
    for hub in [Hub::HuggingFace, Hub::ModelScope] {
        let mut fixture = Fixture::new(hub);
        fixture.config.max_retries = 5;
        fixture.model().spoils = Some((SECOND, 6));
        let error = fixture.refusal();
        assert!(error.contains(SECOND) && error.contains("SHA-256"), "{error}");
        // Fetched anew once, and not again: both were whole.
        assert_eq!(fixture.model().spoils, Some((SECOND, 4)));
        fixture.model().spoils = Some((SECOND, 1));
        fixture.resolve_to(OLD);
    }
}

#[test]
fn a_server_without_ranges_sends_the_file_anew() {
    let fixture = Fixture::new(Hub::HuggingFace);
    fixture.model().knows_ranges = false;
    fixture.model().breaks = Some((FIRST, BREAK));
    fixture.resolve().unwrap_err();
    fixture.requests();
    fixture.resolve_to(OLD);
    let requests = fixture.requests();
    let range = Some(format!("bytes={BREAK}-"));
    assert!(requests.iter().any(|request| request.range == range && request.sent == 100_000));
}

#[test]
fn what_an_earlier_run_left_is_used_only_where_it_fits() {
    let shorter = 99_999;
    for (left, hides_sizes, whole_transfers) in [
        (100_000, false, 1),
        (100_001, false, 2),
        (0, false, 2),
        (shorter, true, 1),
        // The server says 416.
        (100_000, true, 2),
        (100_001, true, 2),
    ] {
        let fixture = Fixture::new(Hub::HuggingFace);
        let blob = hash(&files(1)[FIRST]);
        let blobs = fixture.cache("models--zai-org--tiny/blobs");
        fs::create_dir_all(&blobs).unwrap();
        let mut bytes = files(1)[FIRST].clone();
        bytes.resize(left, 0);
        fs::write(blobs.join(format!("{blob}.glm.incomplete")), bytes).unwrap();
        // A file of the right name and the wrong size is not one of ours.
        if !hides_sizes {
            fs::write(blobs.join(&blob), "short").unwrap();
        }
        fixture.model().hides_sizes = hides_sizes;
        fixture.resolve_to(OLD);
        let count = fixture.requests().iter().filter(|request| request.sent == 100_000).count();
        assert_eq!(count, whole_transfers, "left {left}, hides_sizes {hides_sizes}");
    }
}

#[test]
fn a_refusal_says_whether_a_token_was_sent() {
    for (token, wanted) in
        [(None, "no token was sent: set HF_TOKEN"), (Some("secret"), "the token that was sent")]
    {
        for status in [401, 403] {
            let mut fixture = Fixture::new(Hub::HuggingFace);
            fixture.config.token = token.map(str::to_owned);
            fixture.model().refuses = Some(status);
            let error = fixture.refusal();
            assert!(error.contains(wanted) && error.contains(MODEL), "{error}");
            assert!(
                error.contains(&format!("HTTP {status}")) && !error.contains("secret"),
                "{error}"
            );
            let header = token.map(|token| format!("Bearer {token}"));
            assert_eq!(fixture.requests()[0].authorization, header);
        }
    }
}

#[test]
fn an_unknown_revision_or_model_is_named() {
    let mut fixture = Fixture::new(Hub::HuggingFace);
    let endpoint = fixture.config.endpoint.clone().unwrap();
    fixture.config.revision = Some("v9".to_owned());
    assert_eq!(fixture.refusal(), format!("{endpoint} has no revision `v9` of `{MODEL}`"));
    assert_eq!(fixture.requests()[0].path, "/api/models/zai-org/tiny/revision/v9");
    let error = resolve(
        &HubConfig { revision: None, ..fixture.config.clone() },
        "zai-org/none",
        WHOLE,
        &(),
    )
    .unwrap_err();
    assert_eq!(error.to_string(), format!("{endpoint} has no model `zai-org/none`"));

    let mut fixture = Fixture::new(Hub::ModelScope);
    fixture.config.revision = Some("v9".to_owned());
    assert!(fixture.refusal().ends_with("has no revision `v9` of `ZhipuAI/tiny`"));
    assert_eq!(fixture.requests().len(), 1);
}

#[test]
fn a_revision_that_moves_does_not_mix_commits() {
    for hub in [Hub::HuggingFace, Hub::ModelScope] {
        let mut fixture = Fixture::new(hub);
        // `main` is explicit for ModelScope, whose default is `master`.
        fixture.config.revision = Some("main".to_owned());
        fixture.model().moves_to = Some(NEW);
        let old = fixture.resolve_to(OLD);
        assert!(fixture.requests()[1..].iter().all(|request| request.path.contains(OLD)));
        let new = fixture.resolve_to(NEW);
        assert!(fixture.requests()[1..].iter().all(|request| request.path.contains(NEW)));
        assert_ne!(old, new);
    }
}

#[test]
fn a_revision_holds_for_every_file() {
    let mut fixture = Fixture::new(Hub::HuggingFace);
    fixture.config.revision = Some("v1.0/rc".to_owned());
    fixture.resolve_to(NEW);
    let requests = fixture.requests();
    assert_eq!(requests[0].path, "/api/models/zai-org/tiny/revision/v1.0%2Frc");
    assert!(
        requests[1..].iter().all(|request| request.path.contains(&format!("/resolve/{NEW}/"))),
        "{requests:#?}"
    );
    assert_eq!(
        fs::read_to_string(fixture.cache("models--zai-org--tiny/refs/v1.0/rc")).unwrap(),
        NEW
    );
    // By its commit the same snapshot is found without a reference.
    fixture.config =
        HubConfig { revision: Some(NEW.to_owned()), offline: true, ..fixture.config.clone() };
    fixture.resolve_to(NEW);
    assert_eq!(fixture.requests().len(), 0);
}

#[test]
fn offline_never_asks_and_names_what_is_missing() {
    for hub in [Hub::HuggingFace, Hub::ModelScope] {
        let mut fixture = Fixture::new(hub);
        fixture.config.offline = true;
        let error = fixture.refusal();
        assert!(error.contains("no known commit of `ma"), "{error}");
        assert!(error.contains("unset HF_HUB_OFFLINE"), "{error}");
        fixture.config.offline = false;
        let folder = fixture.resolve_to(OLD);
        fixture.requests();

        fixture.config.offline = true;
        fixture.resolve_to(OLD);
        fs::remove_file(fs::canonicalize(folder.join(SECOND)).unwrap()).unwrap();
        let error = fixture.refusal();
        assert!(error.contains(SECOND) && !error.contains(FIRST), "{error}");
        assert!(error.contains("unset HF_HUB_OFFLINE"), "{error}");
        assert_eq!(fixture.requests().len(), 0);

        // Online again, only what is missing is fetched.
        fixture.config.offline = false;
        fixture.resolve_to(OLD);
        assert!(fixture.requests()[1..].iter().all(|request| request.path.ends_with(SECOND)));
    }
}

#[test]
fn without_a_hub_the_cache_stands_in() {
    let mut fixture = Fixture::new(Hub::HuggingFace);
    let live = fixture.config.endpoint.clone();
    // Nothing listens on port 0.
    let dead = "http://127.0.0.1:0".to_owned();
    fixture.config.endpoint = Some(dead.clone());
    assert_eq!(fixture.refusal(), format!("cannot reach {dead}"));
    fixture.config.endpoint = live;
    fixture.resolve_to(OLD);
    let count = fixture.requests().len();
    for status in [None, Some(503), Some(401), Some(200)] {
        match status {
            None => fixture.config.endpoint = Some(dead.clone()),
            Some(_) => fixture.config.endpoint = Some(serve(&fixture.model, true)),
        }
        fixture.model().refuses = status;
        fixture.resolve_to(OLD);
        let note = fixture.log.notes.lock().unwrap().pop().unwrap();
        assert!(note.contains("using the copy in"), "{note}");
        let is_html = status == Some(200);
        assert_eq!(note.contains("the hub's answer is not JSON"), is_html, "{note}");
    }
    assert!(count > 2 && fixture.requests().len() == 3);
}

#[test]
fn a_description_comes_without_the_weights() {
    for hub in [Hub::HuggingFace, Hub::ModelScope] {
        let mut fixture = Fixture::new(hub);
        let describe =
            |config: &HubConfig| resolve(config, MODEL, Wanted::Description, &()).unwrap();
        let folder = describe(&fixture.config);
        assert!(folder.join("config.json").is_file() && folder.join(INDEX).is_file());
        assert!(!folder.join(FIRST).exists() && !folder.join(SECOND).exists());
        let asked = fixture.requests();
        let weights = |path: &str| path.ends_with(FIRST) || path.ends_with(SECOND);
        assert!(asked.iter().all(|request| !weights(&request.path)), "{asked:#?}");

        // Without a hub it is still known.
        fixture.config.offline = true;
        assert_eq!(describe(&fixture.config), folder);
        let error = fixture.refusal();
        assert!(error.contains(FIRST) && !error.contains("config.json"), "{error}");
        fixture.config.offline = false;

        // A later description does not hide the weights of an earlier snapshot.
        let whole = fixture.resolve_to(OLD);
        fixture.model().references.extend([("main", NEW), ("master", NEW)]);
        assert_ne!(describe(&fixture.config), whole);
        fixture.config.offline = true;
        assert_eq!(fixture.resolve().unwrap(), whole);
    }
}

#[test]
fn sizes_come_without_a_tokenizer() {
    for hub in [Hub::HuggingFace, Hub::ModelScope] {
        let mut fixture = Fixture::new(hub);
        let sizes = |config: &HubConfig| resolve(config, MODEL, Wanted::Sizes, &()).unwrap();
        let describe = |config: &HubConfig| resolve(config, MODEL, Wanted::Description, &());
        let folder = sizes(&fixture.config);
        assert!(folder.join("config.json").is_file() && folder.join(INDEX).is_file());
        assert!(!folder.join("tokenizer.json").exists() && !folder.join(FIRST).exists());
        fixture.config.offline = true;
        assert_eq!(sizes(&fixture.config), folder);
        let error = describe(&fixture.config).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json"), "{error}");
        fixture.config.offline = false;

        // Later sizes do not hide an earlier description.
        let described = describe(&fixture.config).unwrap();
        fixture.model().references.extend([("main", NEW), ("master", NEW)]);
        assert_ne!(sizes(&fixture.config), described);
        fixture.config.offline = true;
        assert_eq!(describe(&fixture.config).unwrap(), described);
    }
}

#[test]
fn a_later_description_replaces_one_without_weights() {
    for hub in [Hub::HuggingFace, Hub::ModelScope] {
        let mut fixture = Fixture::new(hub);
        let describe =
            |config: &HubConfig| resolve(config, MODEL, Wanted::Description, &()).unwrap();
        let old = describe(&fixture.config);
        fixture.model().references.extend([("main", NEW), ("master", NEW)]);
        let new = describe(&fixture.config);
        assert_ne!(old, new);
        fixture.config.offline = true;
        assert_eq!(describe(&fixture.config), new);
    }
}

#[test]
fn the_check_comes_between_description_and_weights() {
    for hub in [Hub::HuggingFace, Hub::ModelScope] {
        let mut fixture = Fixture::new(hub);
        fixture.config.revision = Some("main".to_owned());
        let checked = RefCell::new(Vec::new());
        let check_described = |folder: &Path| {
            assert!(folder.join("config.json").is_file() && folder.join(INDEX).is_file());
            checked.borrow_mut().push(folder.to_owned());
        };
        let refuse = |folder: &Path| {
            check_described(folder);
            Err("too large".into())
        };
        let refuse = Wanted::Whole { check: &refuse };
        let accept = |folder: &Path| {
            check_described(folder);
            assert!(!folder.join(FIRST).exists());
            Ok(())
        };
        let accept = Wanted::Whole { check: &accept };
        let is_listing = |request: &&stand_in::Request| request.path.starts_with("/api/");

        let error = resolve(&fixture.config, MODEL, refuse, &()).unwrap_err();
        assert!(matches!(error, HubError::Refused(_)) && error.to_string() == "too large");
        let asked = fixture.requests();
        let weights = |path: &str| path.ends_with(FIRST) || path.ends_with(SECOND);
        assert!(asked.iter().all(|request| !weights(&request.path)), "{asked:#?}");

        // What is fetched is what was checked, though the revision moves.
        fixture.model().moves_to = Some(NEW);
        let old = resolve(&fixture.config, MODEL, accept, &()).unwrap();
        assert_eq!(fixture.requests().iter().filter(is_listing).count(), 1);
        assert_eq!(fs::read(old.join(FIRST)).unwrap(), files(1)[FIRST]);

        // A copy is checked too, with and without asking the hub.
        fixture.model().refuses = Some(503);
        let error = resolve(&fixture.config, MODEL, refuse, &fixture.log).unwrap_err();
        assert_eq!(error.to_string(), "too large");
        assert_eq!(fixture.requests().len(), 1);
        assert_eq!(fixture.log.notes.lock().unwrap().len(), 1);
        fixture.config.offline = true;
        resolve(&fixture.config, MODEL, refuse, &()).unwrap_err();
        assert_eq!(fixture.requests().len(), 0);
        assert_eq!(*checked.borrow(), vec![old; 4]);
    }
}

#[test]
fn an_index_that_cannot_be_followed_is_refused() {
    for (index, wanted) in [
        (r#"{"weight_map":{"a":"../evil"}}"#, "names `../evil`"),
        (r#"{"weight_map":{"a":"/evil"}}"#, "names `/evil`"),
        (r#"{"weight_map":{}}"#, "names no file"),
        (r#"{"weight_map""#, "EOF"),
        (r#"{"weight_map":{"a":"model-9.safetensors"}}"#, "has no file `model-9.safetensors`"),
    ] {
        let fixture = Fixture::new(Hub::HuggingFace);
        fixture.model().commits.get_mut(OLD).unwrap().insert(INDEX.to_owned(), index.into());
        let error = fixture.refusal();
        assert!(error.contains(wanted), "{error}");
        let requests = fixture.requests();
        assert!(requests[1..].iter().all(|request| request.path.ends_with(INDEX)), "{requests:#?}");
    }
}

#[test]
fn a_model_without_an_index_has_one_file_of_weights() {
    let fixture = Fixture::new(Hub::HuggingFace);
    let single = BTreeMap::from([("config.json".to_owned(), b"{}".to_vec())]);
    fixture.model().commits.insert(OLD, single.clone());
    assert!(fixture.refusal().contains("has no file `model.safetensors`"));
    let with_weights = single.into_iter().chain([("model.safetensors".to_owned(), vec![7; 1000])]);
    fixture.model().commits.insert(OLD, with_weights.collect());
    fixture.requests();
    fixture.resolve_to(OLD);
    let requests = fixture.requests();
    assert_eq!(requests.iter().filter(|request| !request.at_hub).count(), 1, "{requests:#?}");
}

#[test]
fn modelscope_has_its_own_addresses_and_folders() {
    let fixture = Fixture::new(Hub::ModelScope);
    let folder = fixture.resolve_to(OLD);
    assert!(folder.starts_with(fixture.cache("modelscope/models--ZhipuAI--tiny/snapshots")));
    let requests = fixture.requests();
    assert_eq!(
        requests[0].path,
        "/api/v1/models/ZhipuAI/tiny/repo/files?Revision=master&Recursive=true"
    );
    let prefix = format!("/models/ZhipuAI/tiny/resolve/{OLD}/");
    assert!(requests[1..].iter().all(|request| request.path.starts_with(&prefix)), "{requests:#?}");
    assert_eq!(requests.len(), 7);
    fixture.resolve_to(OLD);
    assert_eq!(fixture.requests().len(), 1);

    let fixture = Fixture::new(Hub::ModelScope);
    fixture.model().forgets_commits = true;
    fixture.resolve_to(OLD);
    let by_branch = |request: &stand_in::Request| request.path.contains("/resolve/master/");
    assert_eq!(fixture.requests().iter().filter(|request| by_branch(request)).count(), 6);
}

#[test]
fn two_processes_do_not_write_one_file() {
    let fixture = Fixture::new(Hub::HuggingFace);
    let locks = fixture.cache(".locks/models--zai-org--tiny");
    fs::create_dir_all(&locks).unwrap();
    let held = File::create(locks.join(format!("{}.lock", hash(&files(1)[FIRST])))).unwrap();
    held.lock().unwrap();
    *fixture.log.held.lock().unwrap() = Some(held);
    fixture.resolve_to(OLD);
    let notes = fixture.log.notes.lock().unwrap();
    assert_eq!(*notes, [format!("`{FIRST}`: another process is fetching it, waiting")]);
    assert_eq!(fixture.requests().iter().filter(|request| request.sent == 100_000).count(), 2);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said_and_nothing_is_taken_for_whole() {
    let fixture = Fixture::new(Hub::HuggingFace);
    let blobs = fixture.cache("models--zai-org--tiny/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let part = blobs.join(format!("{}.glm.incomplete", hash(&files(1)[FIRST])));
    std::os::unix::fs::symlink("/dev/full", &part).unwrap();
    let error = fixture.resolve().unwrap_err();
    assert!(matches!(&error, HubError::DiskFull { path } if *path == part), "{error}");
    let offline = HubConfig { offline: true, ..fixture.config.clone() };
    let error = resolve(&offline, MODEL, WHOLE, &()).unwrap_err().to_string();
    assert!(error.contains(FIRST), "{error}");
    fs::remove_file(part).unwrap();
    fixture.resolve_to(OLD);
    assert!(fixture.requests().iter().any(|request| request.path.ends_with(SECOND)));
}
