use burn::tensor::{Int, Tensor};
use glm_backends::ops::Routing;

use super::{Mlp, Moe, MoeShape, Residual, RmsNorm};
use crate::config::Skeleton;
use crate::trace::LayerTrace;
use crate::weights::{LoadError, Weights};

/// The second half of a layer: dense in the first layers, experts in the others.
///
/// With several ranks the result is a partial sum.
#[derive(Debug)]
pub(crate) enum FeedForward {
    Dense(Box<Mlp>),
    Experts(Box<Moe>),
}

impl FeedForward {
    /// That of layer `index`.
    pub(crate) fn load(
        w: &Weights<'_>,
        config: &Skeleton,
        index: usize,
    ) -> Result<Self, LoadError> {
        if !config.is_moe_layer(index) {
            let mlp = Mlp::load(w, config.hidden_size, config.intermediate_size)?;
            return Ok(Self::Dense(Box::new(mlp)));
        }
        let shape = MoeShape {
            hidden_size: config.hidden_size,
            moe_intermediate_size: config.moe_intermediate_size,
            n_routed_experts: config.n_routed_experts,
            n_shared_experts: config.n_shared_experts,
            routing: Routing {
                n_group: config.n_group,
                topk_group: config.topk_group,
                num_experts_per_tok: config.num_experts_per_tok,
                norm_topk_prob: config.norm_topk_prob,
                routed_scaling_factor: config.routed_scaling_factor as f32,
                shared_experts: 0,
            },
        };
        Ok(Self::Experts(Box::new(Moe::load(w, &shape)?)))
    }

    /// Of the norm of a stream, with `live [tokens]`: `[tokens, hidden]`.
    pub(crate) fn forward(
        &self,
        stream: &mut Residual,
        norm: &RmsNorm,
        live: Tensor<1, Int>,
        trace: &mut LayerTrace<'_>,
    ) -> Tensor<2> {
        match self {
            Self::Dense(mlp) => mlp.of_stream(stream, norm),
            Self::Experts(moe) => moe.forward(stream, norm, live, trace),
        }
    }
}
