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
    /// Copies of these parts; each has its own sequences. Above 1 only where the heads do not divide
    /// over all devices.
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
    /// heads divide by. What is divided divides evenly.
    #[must_use]
    pub fn layouts(&self) -> Vec<Layout> {
        (1..=MOST_DEVICES).filter_map(|devices| self.layout(devices)).collect()
    }

    /// The layout over as many of `devices` devices as can be used.
    #[must_use]
    pub fn layout_within(&self, devices: usize) -> Layout {
        let largest = self.layouts().into_iter().rfind(|layout| layout.devices <= devices);
        let whole = ExpertSplit::Whole(self.skeleton.n_routed_experts);
        largest.unwrap_or(Layout { devices: 1, tensor: 1, groups: 1, experts: whole })
    }

    fn layout(&self, devices: usize) -> Option<Layout> {
        let tensor = (1..=devices)
            .rev()
            .find(|tensor| devices.is_multiple_of(*tensor) && self.divides(*tensor))?;
        if tensor != devices && !devices.is_power_of_two() {
            return None;
        }
        let (experts, width) =
            (self.skeleton.n_routed_experts, self.skeleton.moe_intermediate_size);
        let experts = if experts.is_multiple_of(devices) {
            ExpertSplit::Whole(experts / devices)
        } else if width.is_multiple_of(devices) {
            ExpertSplit::Width(width / devices)
        } else {
            return None;
        };
        Some(Layout { devices, tensor, groups: devices / tensor, experts })
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
