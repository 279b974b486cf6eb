use burn::tensor::{DType, Int, Tensor};
use glm_backends::ops::{self, ExpertGroup, ExpertWeights, Routed, Routing};

use super::Mlp;
use crate::trace::LayerTrace;
use crate::weights::{LoadError, Weights};

/// Dimensions and choices of a mixture of experts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MoeShape {
    pub(crate) hidden_size: usize,
    /// Inner width of one routed expert.
    pub(crate) moe_intermediate_size: usize,
    pub(crate) n_routed_experts: usize,
    pub(crate) n_shared_experts: usize,
    pub(crate) routing: Routing,
}

/// Mixture of experts: `y = Σⱼ wⱼ · expertⱼ(x) + shared(x)`.
///
/// The shared expert is always on and not scaled. With several ranks the result is a partial sum.
#[derive(Debug)]
pub(crate) struct Moe {
    router: Router,
    experts: ExpertWeights,
    shared: Mlp,
}

impl Moe {
    pub(crate) fn load(w: &Weights<'_>, shape: &MoeShape) -> Result<Self, LoadError> {
        let shared_width = shape.moe_intermediate_size * shape.n_shared_experts;
        Ok(Self {
            router: Router::load(&w.at("gate"), shape)?,
            experts: load_experts(&w.at("experts"), shape)?,
            shared: Mlp::load(&w.at("shared_experts"), shape.hidden_size, shared_width)?,
        })
    }

    /// `x [tokens, hidden]`, `live [tokens]` → `[tokens, hidden]`
    pub(crate) fn forward(
        &self,
        x: Tensor<2>,
        live: Tensor<1, Int>,
        trace: &mut LayerTrace<'_>,
    ) -> Tensor<2> {
        let routed = self.router.forward(x.clone(), live, trace);
        ops::moe_experts(&x, &routed, &self.experts) + self.shared.forward(x)
    }
}

/// The choice of experts, in f32 from the logits on: bf16 cannot tell close scores apart.
#[derive(Debug)]
struct Router {
    weight: Tensor<2>,
    selection_bias: Tensor<1>,
    routing: Routing,
}

impl Router {
    fn load(w: &Weights<'_>, shape: &MoeShape) -> Result<Self, LoadError> {
        let experts = shape.n_routed_experts;
        Ok(Self {
            weight: w.wide_tensor("weight", [experts, shape.hidden_size])?,
            selection_bias: w.wide_tensor("e_score_correction_bias", [experts])?,
            routing: shape.routing,
        })
    }

    fn forward(&self, x: Tensor<2>, live: Tensor<1, Int>, trace: &mut LayerTrace<'_>) -> Routed {
        let logits = ops::linear(x.cast(DType::F32), self.weight.clone(), None);
        trace.floats("router_logits", &logits);
        let routed = ops::moe_route(logits, self.selection_bias.clone(), live, &self.routing);
        trace.routed(&routed);
        routed
    }
}

/// Stacks the experts in buffers of a bounded size, one buffer on the host at a time. Reads both
/// the hub's layout (one tensor per expert and projection) and the fused one that transformers 5
/// keeps in memory (`gate_up_proj [experts, 2 * width, hidden]`, gate first).
fn load_experts(w: &Weights<'_>, shape: &MoeShape) -> Result<ExpertWeights, LoadError> {
    let [hidden, width] = [shape.hidden_size, shape.moe_intermediate_size];
    let experts = shape.n_routed_experts;
    let divided = w.rank().range(width);
    let part = divided.ok_or_else(|| w.indivisible("0.gate_proj.weight", &[width, hidden]))?;
    let held = part.len();
    let fused = w.has("gate_up_proj");

    let per_group = ExpertWeights::experts_per_group(experts, 2 * held * hidden * 4);
    let mut groups = Vec::new();
    for first in (0..experts).step_by(per_group) {
        let ids = first..experts.min(first + per_group);
        let count = ids.len();

        let mut gate_up = w.buffer(count * 2 * held * hidden);
        for id in ids.clone() {
            for (half, name) in ["gate_proj", "up_proj"].into_iter().enumerate() {
                if fused {
                    let rows = half * width + part.start..half * width + part.end;
                    let shape = [experts, 2 * width, hidden];
                    w.append(&mut gate_up, "gate_up_proj", shape, &[id..id + 1, rows, 0..hidden])?;
                } else {
                    let w = w.at(id).at(name);
                    w.append(&mut gate_up, "weight", [width, hidden], &[part.clone(), 0..hidden])?;
                }
            }
        }
        let gate_up = w.place(gate_up, [count, 2 * held, hidden]);

        let mut down = w.buffer(count * hidden * held);
        for id in ids {
            if fused {
                let part = &[id..id + 1, 0..hidden, part.clone()];
                w.append(&mut down, "down_proj", [experts, hidden, width], part)?;
            } else {
                let w = w.at(id).at("down_proj");
                w.append(&mut down, "weight", [hidden, width], &[0..hidden, part.clone()])?;
            }
        }
        let down = w.place(down, [count, hidden, held]);
        groups.push(ExpertGroup { gate_up, down });
    }
    Ok(ExpertWeights::new(groups, per_group))
}
