use super::Config;
use crate::inventory::{Division, LayerGroups, Part, TensorGroup};

impl Config {
    /// Every tensor of a checkpoint: the table in this folder's `mod.rs`, with sizes.
    pub(crate) fn tensor_groups(&self) -> Vec<TensorGroup> {
        self.skeleton().tensor_groups(|layer| self.attention_tensors(layer))
    }

    fn attention_tensors(&self, layer: &mut LayerGroups) {
        let hidden = self.hidden_size;
        let queries = self.num_attention_heads * self.head_dim;
        let keys = self.num_key_value_heads * self.head_dim;
        for (name, out, division) in [
            ("self_attn.q_proj", queries, Division::Heads),
            ("self_attn.k_proj", keys, Division::KvHeads),
            ("self_attn.v_proj", keys, Division::KvHeads),
        ] {
            layer.matrix(name, [out, hidden], Part::Attention, division);
            if self.attention_bias {
                layer.bias(name, out, division);
            }
        }
        layer.matrix("self_attn.o_proj", [hidden, queries], Part::Attention, Division::Heads);
        if self.use_qk_norm {
            layer.norm("self_attn.q_norm", self.head_dim);
            layer.norm("self_attn.k_norm", self.head_dim);
        }
    }
}
