use super::Config;
use crate::inventory::{Division, LayerGroups, Part, TensorGroup};

impl Config {
    /// Every tensor of a checkpoint, in groups.
    pub(crate) fn tensor_groups(&self) -> Vec<TensorGroup> {
        self.skeleton().tensor_groups(|layer| self.attention_tensors(layer))
    }

    /// What makes the latents every device needs whole; what the heads make of them is divided.
    fn attention_tensors(&self, layer: &mut LayerGroups) {
        let (hidden, latent) = (self.hidden_size, self.kv_lora_rank);
        let heads = self.num_attention_heads;
        let queries = heads * self.qk_head_dim();
        let mut project = |name: &str, shape, division| {
            layer.matrix(name, shape, Part::Attention, division);
        };
        match self.q_lora_rank {
            Some(rank) => {
                project("self_attn.q_a_proj", [rank, hidden], Division::Whole);
                project("self_attn.q_b_proj", [queries, rank], Division::Heads);
            }
            None => project("self_attn.q_proj", [queries, hidden], Division::Heads),
        }
        let compressed = [latent + self.qk_rope_head_dim, hidden];
        project("self_attn.kv_a_proj_with_mqa", compressed, Division::Whole);
        let expanded = [heads * (self.qk_nope_head_dim + self.v_head_dim), latent];
        project("self_attn.kv_b_proj", expanded, Division::Heads);
        project("self_attn.o_proj", [hidden, heads * self.v_head_dim], Division::Heads);
        if let Some(rank) = self.q_lora_rank {
            layer.norm("self_attn.q_a_layernorm", rank);
        }
        layer.norm("self_attn.kv_a_layernorm", latent);
    }
}
