//! stub
use crate::step::StepPlan;
#[derive(Debug)]
pub(crate) struct DraftPolicy;
impl DraftPolicy {
    pub(crate) fn new() -> Self {
        DraftPolicy
    }
    pub(crate) fn choose(&mut self, _batch: usize) -> usize {
        1
    }
    pub(crate) fn admit(&mut self) -> bool {
        true
    }
    pub(crate) fn verified(&mut self, _d: usize, _a: usize) {}
    pub(crate) fn step(&mut self, _p: &StepPlan, _g: usize, _s: f64) {}
}
