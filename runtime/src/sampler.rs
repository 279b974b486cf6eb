//! stub
use crate::request::TokenLogprobs;
use crate::step::{RowMask, SlotState};
use burn::tensor::{Device, Int, Tensor, TensorData};
use glm_backends::ops;
#[derive(Debug)]
pub(crate) struct Sampler {}
#[derive(Debug)]
pub(crate) struct SampledShare<'a> {
    pub(crate) slot: u32,
    pub(crate) drafts: usize,
    pub(crate) output_index: usize,
    pub(crate) shifted: bool,
    pub(crate) masks: &'a [RowMask],
    pub(crate) logprobs: Option<usize>,
}
#[derive(Debug)]
pub(crate) struct Sampled {
    pub(crate) ids: Tensor<2, Int>,
    pub(crate) accepted: Tensor<1, Int>,
    pub(crate) last: Tensor<1, Int>,
    pub(crate) logprobs: Option<Logprobs>,
}
#[derive(Debug)]
pub(crate) struct Logprobs(TensorData);
impl Logprobs {
    pub(crate) fn take(&mut self, _i: usize, _t: &[u32]) -> Vec<TokenLogprobs> {
        Vec::new()
    }
    pub(crate) fn read(self, _next: &[u32]) -> Vec<TokenLogprobs> {
        Vec::new()
    }
}
impl Sampler {
    pub(crate) fn new(_b: usize, _v: usize, _t: usize, _d: &Device) -> Self {
        Sampler {}
    }
    pub(crate) fn open(&mut self, _slot: u32, _s: &SlotState<'_>) {}
    pub(crate) fn sample(
        &mut self,
        logits: Tensor<2>,
        rows: &[SampledShare<'_>],
        width: usize,
        drafts: Option<Tensor<2, Int>>,
        _shift: Option<Tensor<1, Int>>,
    ) -> Sampled {
        let [n, _] = logits.dims();
        let s = n / width;
        let ids = ops::argmax(logits).reshape([s, width]);
        let device = ids.device();
        let mut most = vec![0i32; s];
        for (i, r) in rows.iter().enumerate() {
            most[i] = r.drafts as i32;
        }
        let mut run = Tensor::<1, Int>::ones([s], &device);
        let mut accepted = Tensor::<1, Int>::zeros([s], &device);
        if let Some(d) = drafts {
            for j in 0..width - 1 {
                let ok = d
                    .clone()
                    .narrow(1, j, 1)
                    .equal(ids.clone().narrow(1, j, 1))
                    .int()
                    .squeeze_dim::<1>(1);
                let lim: Vec<i32> = most.iter().map(|m| i32::from(*m > j as i32)).collect();
                run = run * ok * Tensor::<1, Int>::from_data(lim.as_slice(), &device);
                accepted = accepted + run.clone();
            }
        }
        let last =
            ids.clone().gather(1, accepted.clone().unsqueeze_dim::<2>(1)).squeeze_dim::<1>(1);
        Sampled { ids, accepted, last, logprobs: None }
    }
    pub(crate) fn prompt_logprobs(&self, _l: Tensor<2>, _n: &[u32], _t: usize) -> Logprobs {
        unreachable!()
    }
}
