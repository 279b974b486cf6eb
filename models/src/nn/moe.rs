use burn::tensor::{DType, Int, Tensor};
use glm_backends::ops::{self, ExpertGroup, ExpertWeights, Routed, Routing};
use glm_backends::weight::Weight;

use super::Mlp;
use crate::trace::LayerTrace;
use crate::weights::{LoadError, OnLoad, Piece, Weights};

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
    weight: Weight,
    selection_bias: Tensor<1>,
    routing: Routing,
}

impl Router {
    fn load(w: &Weights<'_>, shape: &MoeShape) -> Result<Self, LoadError> {
        let experts = shape.n_routed_experts;
        Ok(Self {
            weight: Weight::Dense(w.wide_tensor("weight", [experts, shape.hidden_size])?),
            selection_bias: w.wide_tensor("e_score_correction_bias", [experts])?,
            routing: shape.routing,
        })
    }

    fn forward(&self, x: Tensor<2>, live: Tensor<1, Int>, trace: &mut LayerTrace<'_>) -> Routed {
        let logits = ops::linear(x.cast(DType::F32), &self.weight, None);
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
    let fused = w.has("gate_up_proj");

    // Rows of gate (0) or up (1), and of down, of one expert.
    let gate_or_up = |id: usize, half: usize| match fused {
        true => Piece {
            name: "gate_up_proj".into(),
            shape: vec![experts, 2 * width, hidden],
            part: vec![id..id + 1, half * width + part.start..half * width + part.end, 0..hidden],
        },
        false => Piece {
            name: format!("{id}.{}.weight", ["gate_proj", "up_proj"][half]),
            shape: vec![width, hidden],
            part: vec![part.clone(), 0..hidden],
        },
    };
    let down = |id: usize| match fused {
        true => Piece {
            name: "down_proj".into(),
            shape: vec![experts, hidden, width],
            part: vec![id..id + 1, 0..hidden, part.clone()],
        },
        false => Piece {
            name: format!("{id}.down_proj.weight"),
            shape: vec![hidden, width],
            part: vec![0..hidden, part.clone()],
        },
    };
    let per_group = ExpertWeights::experts_per_group(experts, 2 * part.len() * hidden * 4);
    let group = |first: usize| {
        let ids = first..experts.min(first + per_group);
        let gate_up: Vec<_> =
            ids.clone().flat_map(|id| [gate_or_up(id, 0), gate_or_up(id, 1)]).collect();
        let down: Vec<_> = ids.clone().map(down).collect();
        Ok(ExpertGroup {
            experts: ids.len(),
            gate_up: w.stack(&gate_up, OnLoad::Quantise)?,
            down: w.stack(&down, OnLoad::Quantise)?,
        })
    };
    let groups = (0..experts).step_by(per_group).map(group).collect::<Result<_, _>>()?;
    Ok(ExpertWeights::new(groups, per_group))
}
