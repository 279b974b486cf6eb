//! Steps that are recorded once and replayed.

use glm_runtime::{DraftChoice, DtypeChoice, Engine, EngineConfig, KvDtypeChoice};

use super::{Model, alone, assert_same, collect, greedy};
use crate::support::oracle;

fn load(model: &Model, record_steps: bool) -> Option<Engine> {
    let device = oracle::device(oracle::gpu())?;
    let config = EngineConfig {
        dtype: DtypeChoice::F32,
        max_context: Some(1024),
        drafts: DraftChoice::Fixed(0),
        record_steps,
        ..EngineConfig::default()
    };
    Some(oracle::load(&model.folder, &device, &config))
}

/// Sequences that come, go and grow over pages meet recordings of other lengths and slots.
#[test]
fn replayed_steps_answer_as_launched_ones() {
    const TOKENS: usize = 24;
    let _turn = oracle::turn(oracle::gpu());
    let model = Model::built_in();
    let Some(engine) = load(&model, true) else { return };
    let want = alone(&model, TOKENS, KvDtypeChoice::Auto);
    for pair in [[0, 1], [1, 2], [2, 0], [0, 0]] {
        let streams = pair.map(|index| {
            let index = index % model.prompts.len();
            (index, engine.submit(greedy(&model.prompts[index], TOKENS)).expect("a request"))
        });
        for (index, stream) in streams {
            let answer = collect(stream).expect("an answer");
            assert_same(&format!("prompt {index}"), &answer, &want[index]);
        }
    }
    let recording = engine.stats().recording;
    assert_eq!(recording.refused, None);
    assert!(recording.replayed > 60, "{recording:?}");
    // One for each shape: one row and two, over the pages that the prompts take.
    assert!(recording.recorded <= 12, "{recording:?}");
}

#[test]
fn nothing_is_recorded_where_it_is_not_wanted() {
    let _turn = oracle::turn(oracle::gpu());
    let model = Model::built_in();
    let Some(engine) = load(&model, false) else { return };
    collect(engine.submit(greedy(&model.prompts[0], 6)).expect("a request")).expect("an answer");
    let recording = engine.stats().recording;
    assert_eq!((recording.recorded, recording.replayed, recording.refused), (0, 0, None));
    let layers = engine.files().config.num_hidden_layers() as u64;
    // The first layers are dense, which takes no more; the norm at the end is one more.
    assert!((1..=10 * layers + 1).contains(&recording.launches), "{}", recording.launches);
}
