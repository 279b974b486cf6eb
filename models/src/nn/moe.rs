use burn::tensor::{Int, Tensor};
#[cfg(feature = "cpu")]
use glm_backends::ops::ExpertMatrices;
use glm_backends::ops::{self, ExpertGroup, ExpertWeights, Normed, Routed, Routing};
use glm_backends::weight::Weight;

use super::{Mlp, Residual, RmsNorm};
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
    /// Where the shared expert is not the last of `experts`.
    shared: Option<Mlp>,
}

impl Moe {
    pub(crate) fn load(w: &Weights<'_>, shape: &MoeShape) -> Result<Self, LoadError> {
        let stacks = Stacks::new(w, shape)?;
        let mut router = Router::load(&w.at("gate"), shape)?;
        let with_shared = stacks.with_shared;
        router.routing.shared_experts = usize::from(with_shared);
        let shared_width = shape.moe_intermediate_size * shape.n_shared_experts;
        Ok(Self {
            router,
            experts: stacks.load(w)?,
            shared: match with_shared {
                true => None,
                false => Some(Mlp::load(&w.at("shared_experts"), shape.hidden_size, shared_width)?),
            },
        })
    }

    /// Of the norm of a stream, with `live [tokens]`: `[tokens, hidden]`.
    pub(crate) fn forward(
        &self,
        stream: &mut Residual,
        norm: &RmsNorm,
        live: Tensor<1, Int>,
        trace: &mut LayerTrace<'_>,
    ) -> Tensor<2> {
        if self.shared.is_none() {
            let logits = stream.project(norm, |input| self.router.of_norm(input));
            let routed = self.router.route(logits, live, trace);
            return ops::norm_moe_experts(stream.total(), norm.op(), &routed, &self.experts);
        }
        let x = stream.norm(norm);
        let logits = ops::wide_linear(x.clone(), &self.router.weight);
        let routed = self.router.route(logits, live, trace);
        let y = ops::moe_experts(&x, &routed, &self.experts);
        match &self.shared {
            Some(shared) => y + shared.forward(x),
            None => y,
        }
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

    /// The sum that is normed, and the logits of the norm.
    fn of_norm(&self, input: Normed<'_>) -> (Tensor<2>, Tensor<2>) {
        ops::norm_linear(input, &self.weight, None, true)
    }

    fn route(&self, logits: Tensor<2>, live: Tensor<1, Int>, trace: &mut LayerTrace<'_>) -> Routed {
        trace.floats("router_logits", &logits);
        let routed = ops::moe_route(logits, self.selection_bias.clone(), live, &self.routing);
        trace.routed(&routed, self.routing.num_experts_per_tok);
        routed
    }
}

/// The experts of a layer as pieces of stacks. Reads both the hub's layout (one tensor per expert and
/// projection) and the fused one that transformers 5 keeps in memory (`gate_up_proj [experts,
/// 2 * width, hidden]`, gate first).
struct Stacks {
    /// Gate and up of each expert.
    gate_up: Vec<[Piece; 2]>,
    down: Vec<Piece>,
    /// Whether the last expert is the shared one.
    with_shared: bool,
    bytes_per_expert: usize,
}

impl Stacks {
    fn new(w: &Weights<'_>, shape: &MoeShape) -> Result<Self, LoadError> {
        let [hidden, width] = [shape.hidden_size, shape.moe_intermediate_size];
        let experts = shape.n_routed_experts;
        let first = "experts.0.gate_proj.weight";
        let divided = w.rank().range(width);
        let part = divided.ok_or_else(|| w.indivisible(first, &[width, hidden]))?;
        let fused = w.has("experts.gate_up_proj");

        // Rows of gate (0) or up (1), and of down, of one expert.
        let gate_or_up = |expert: &str, half: usize| Piece {
            name: format!("{expert}.{}.weight", ["gate_proj", "up_proj"][half]),
            shape: vec![width, hidden],
            part: vec![part.clone(), 0..hidden],
        };
        let fused_gate_or_up = |id: usize, half: usize| Piece {
            name: "experts.gate_up_proj".into(),
            shape: vec![experts, 2 * width, hidden],
            part: vec![id..id + 1, half * width + part.start..half * width + part.end, 0..hidden],
        };
        let down_of = |expert: &str| Piece {
            name: format!("{expert}.down_proj.weight"),
            shape: vec![hidden, width],
            part: vec![0..hidden, part.clone()],
        };
        let fused_down = |id: usize| Piece {
            name: "experts.down_proj".into(),
            shape: vec![experts, hidden, width],
            part: vec![id..id + 1, 0..hidden, part.clone()],
        };
        let pieces = |id: usize| match fused {
            true => ([fused_gate_or_up(id, 0), fused_gate_or_up(id, 1)], fused_down(id)),
            false => {
                let expert = format!("experts.{id}");
                ([gate_or_up(&expert, 0), gate_or_up(&expert, 1)], down_of(&expert))
            }
        };
        let (mut gate_up, mut down): (Vec<_>, Vec<_>) = (0..experts).map(pieces).unzip();

        // The shared expert is one more where kernels take it like the others.
        let shared =
            ([0, 1].map(|half| gate_or_up("shared_experts", half)), down_of("shared_experts"));
        let takes_it = ops::takes_kernels(w.device()) || ops::widens_weights(w.device(), w.dtype());
        let mut with_shared = shape.n_shared_experts == 1 && takes_it;
        if with_shared {
            let both = [gate_up[0][0].clone(), shared.0[0].clone(), shared.0[1].clone()];
            with_shared = w.alike(&both, OnLoad::Quantise)?
                && w.alike(&[down[0].clone(), shared.1.clone()], OnLoad::Quantise)?;
        }
        if with_shared {
            gate_up.push(shared.0);
            down.push(shared.1);
        }
        let bytes = w.bytes_per_element(&gate_up[0][0], OnLoad::Quantise)?;
        let bytes_per_expert = 2 * part.len() * hidden * bytes;
        Ok(Self { gate_up, down, with_shared, bytes_per_expert })
    }

    /// Where they lie, or in buffers of a bounded size, one on the host at a time.
    fn load(self, w: &Weights<'_>) -> Result<ExpertWeights, LoadError> {
        #[cfg(feature = "cpu")]
        if let Some(experts) = self.apart(w)? {
            return Ok(experts);
        }
        let per_group =
            ExpertWeights::experts_per_group(self.down.len(), self.bytes_per_expert, w.device());
        let groups = self.gate_up.chunks(per_group).zip(self.down.chunks(per_group));
        let group = |(gate_up, down): (&[[Piece; 2]], &[Piece])| {
            Ok(ExpertGroup {
                experts: down.len(),
                gate_up: w.stack(gate_up.as_flattened(), OnLoad::Quantise)?,
                down: w.stack(down, OnLoad::Quantise)?,
            })
        };
        let groups = groups.map(group).collect::<Result<_, _>>()?;
        Ok(ExpertWeights::new(groups, per_group))
    }

    /// Where they lie in their files, where they can stay there.
    #[cfg(feature = "cpu")]
    fn apart(&self, w: &Weights<'_>) -> Result<Option<ExpertWeights>, LoadError> {
        let all: Vec<Piece> = (self.gate_up.iter().zip(&self.down))
            .flat_map(|([gate, up], down)| [gate, up, down].map(Piece::clone))
            .collect();
        let Some(matrices) = w.apart(&all, OnLoad::Quantise)? else { return Ok(None) };
        let (experts, _) = matrices.as_chunks::<3>();
        let expert = |[gate, up, down]: [Tensor<2>; 3]| ExpertMatrices { gate, up, down };
        Ok(Some(ExpertWeights::apart(experts.iter().cloned().map(expert).collect())))
    }
}
