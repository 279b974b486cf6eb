use super::{Attention, Plan};

/// Layouts over more devices than this are not looked for.
const MOST_DEVICES: usize = 128;

/// How a model is divided over equal devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Devices in all: `tensor · groups`.
    pub devices: usize,
    /// Devices that divide the heads of attention and the width of dense parts among themselves.
    pub tensor: usize,
    /// Copies of these parts; each has its own sequences.
    pub groups: usize,
    /// How the experts are divided over all devices.
    pub experts: ExpertSplit,
}

/// How experts are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpertSplit {
    /// Each device holds this many whole experts of a layer.
    Whole(usize),
    /// Each device holds this part of the inner width of every expert.
    Width(usize),
}

impl Plan {
    /// The layouts that the sizes allow, by number of devices: powers of two, and numbers that the
    /// heads divide by. What is divided divides evenly. Of those over equally many devices the one
    /// with the fewest copies of attention comes first; copies cost weights and save cache, where
    /// devices would hold the same keys and values otherwise.
    #[must_use]
    pub fn layouts(&self) -> Vec<Layout> {
        (1..=MOST_DEVICES).flat_map(|devices| self.layouts_over(devices)).collect()
    }

    /// The layout over as many of `devices` devices as can be used, the first one that fits devices
    /// of `usable_bytes` if any does.
    #[must_use]
    pub fn layout_within(&self, devices: usize, usable_bytes: u64) -> Layout {
        let mut counts = (1..=devices.min(MOST_DEVICES)).rev();
        let layouts = counts.find_map(|devices| {
            let layouts: Vec<Layout> = self.layouts_over(devices).collect();
            (!layouts.is_empty()).then_some(layouts)
        });
        let fits = |layout: &&Layout| self.load(layout).total() <= usable_bytes;
        let layouts = layouts.unwrap_or_default();
        let whole = ExpertSplit::Whole(self.skeleton.n_routed_experts);
        layouts.iter().find(fits).or(layouts.first()).copied().unwrap_or(Layout {
            devices: 1,
            tensor: 1,
            groups: 1,
            experts: whole,
        })
    }

    fn layouts_over(&self, devices: usize) -> impl Iterator<Item = Layout> {
        let (experts, width) =
            (self.skeleton.n_routed_experts, self.skeleton.moe_intermediate_size);
        let experts = if experts.is_multiple_of(devices) {
            Some(ExpertSplit::Whole(experts / devices))
        } else if width.is_multiple_of(devices) {
            Some(ExpertSplit::Width(width / devices))
        } else {
            None
        };
        let divides = move |tensor: &usize| {
            devices.is_multiple_of(*tensor)
                && (*tensor == devices || devices.is_power_of_two())
                && self.divides(*tensor)
        };
        experts.into_iter().flat_map(move |experts| {
            let tensors = (1..=devices).rev().filter(divides);
            tensors.map(move |tensor| Layout { devices, tensor, groups: devices / tensor, experts })
        })
    }

    /// Whether heads and dense widths divide by `tensor`.
    fn divides(&self, tensor: usize) -> bool {
        let skeleton = &self.skeleton;
        let shared = skeleton.moe_intermediate_size * skeleton.n_shared_experts;
        let attention = match self.attention {
            Attention::Grouped { heads, kv_heads, .. } => {
                heads.is_multiple_of(tensor)
                    && (kv_heads.is_multiple_of(tensor) || tensor.is_multiple_of(kv_heads))
            }
            Attention::Latent { heads, .. } => heads.is_multiple_of(tensor),
        };
        attention
            && skeleton.intermediate_size.is_multiple_of(tensor)
            && shared.is_multiple_of(tensor)
    }
}
