//! Steps that are recorded once for their shape and run again as a whole.

use std::collections::HashMap;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use glm_backends::graph::{BufferId, Captured, launches};
use glm_backends::kv::KvPool;
use glm_models::forward::{BatchShape, ForwardBatch};
use glm_models::model::Model;
use glm_models::trace::Trace;

use crate::stats::Recording;

/// Most rows of a step that is recorded: longer ones are bound by what they compute.
const MOST_TOKENS: usize = 64;
/// Most shapes that are recorded. Each keeps the memory of its values in between.
const MOST_SHAPES: usize = 48;

/// The recordings of a runner.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    shapes: HashMap<BatchShape, State>,
    /// Why no more steps are recorded.
    refused: Option<Arc<str>>,
    recordings: u64,
    replays: u64,
    launches: u64,
}

#[derive(Debug)]
enum State {
    /// The shape occurred once: a second time is worth a recording.
    Seen,
    Recorded(Box<Captured>),
}

impl Recorded {
    /// Hidden states of a step, `[tokens, hidden]`, by a recording where there is one, or is to be.
    pub(super) fn forward(
        &mut self,
        model: &Model,
        batch: &ForwardBatch,
        kv: &mut KvPool,
        device: &Device,
    ) -> Tensor<2> {
        let shape = batch.shape();
        if shape.tokens > MOST_TOKENS || self.refused.is_some() {
            return self.compute(model, batch, kv);
        }
        let inputs: Vec<BufferId> = batch.buffers().into_iter().chain(kv.buffers()).collect();
        match self.shapes.get(&shape) {
            None if self.shapes.len() < MOST_SHAPES => {
                self.shapes.insert(shape, State::Seen);
                return self.compute(model, batch, kv);
            }
            None => return self.compute(model, batch, kv),
            Some(State::Recorded(recorded)) => match recorded.replay(&inputs) {
                Ok(Some(hidden)) => {
                    self.replays += 1;
                    return hidden;
                }
                // The cache has grown, or its pages are new: what was recorded is of no use.
                Ok(None) => {}
                Err(error) => return self.refuse(error.to_string(), model, batch, kv),
            },
            Some(State::Seen) => {}
        }
        self.shapes.remove(&shape);
        let step = || model.forward(batch, kv, &mut Trace::off());
        let recorded = match Captured::new(device, inputs.clone(), step) {
            Ok(recorded) => recorded,
            Err(error) => return self.refuse(error.to_string(), model, batch, kv),
        };
        self.recordings += 1;
        // A recording does not compute.
        match recorded.replay(&inputs) {
            Ok(Some(hidden)) => {
                self.shapes.insert(shape, State::Recorded(Box::new(recorded)));
                hidden
            }
            Ok(None) => {
                let moved = "a step moved its own inputs".to_owned();
                self.refuse(moved, model, batch, kv)
            }
            Err(error) => self.refuse(error.to_string(), model, batch, kv),
        }
    }

    /// Gives up recordings for good, and computes the step without.
    fn refuse(
        &mut self,
        why: String,
        model: &Model,
        batch: &ForwardBatch,
        kv: &mut KvPool,
    ) -> Tensor<2> {
        self.shapes.clear();
        self.refused = Some(why.into());
        self.compute(model, batch, kv)
    }

    /// The step without a recording.
    pub(super) fn compute(
        &mut self,
        model: &Model,
        batch: &ForwardBatch,
        kv: &mut KvPool,
    ) -> Tensor<2> {
        let before = launches();
        let hidden = model.forward(batch, kv, &mut Trace::off());
        if batch.shape().tokens <= MOST_TOKENS {
            self.launches = launches() - before;
        }
        hidden
    }

    /// What became of recordings until now.
    pub(super) fn report(&self) -> Recording {
        let (recorded, replayed) = (self.recordings, self.replays);
        let refused = self.refused.clone();
        Recording { recorded, replayed, refused, launches: self.launches }
    }
}
