"""How llama.cpp names the metadata and the tensors of the two models."""

import dataclasses
import re
from collections.abc import Callable, Iterator

import gguf
import numpy

from shapes import Shape

Part = tuple[str, list[int]]
Weights = Callable[[str, list[int]], numpy.ndarray]

WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a GGUF file, and the tensors of the checkpoint that it is made of."""

    name: str
    parts: list[Part]
    change: Callable[[list[numpy.ndarray]], numpy.ndarray] = lambda parts: parts[0]

    def take(self, weights: Weights) -> numpy.ndarray:
        return numpy.ascontiguousarray(self.change([weights(*part) for part in self.parts]))


def architecture(shape: Shape) -> str:
    """GLM-4.7-Flash is a DeepSeek-V2 to llama.cpp."""
    kind = gguf.MODEL_ARCH.DEEPSEEK2 if shape.latent else gguf.MODEL_ARCH.GLM4_MOE
    return gguf.MODEL_ARCH_NAMES[kind]


def add_metadata(writer: gguf.GGUFWriter, shape: Shape) -> None:
    # Only ids are fed: no vocabulary but its size.
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(shape["vocab_size"])
    writer.add_block_count(shape["num_hidden_layers"])
    writer.add_context_length(shape["max_position_embeddings"])
    writer.add_embedding_length(shape["hidden_size"])
    writer.add_feed_forward_length(shape["intermediate_size"])
    writer.add_head_count(shape["num_attention_heads"])
    writer.add_layer_norm_rms_eps(shape["rms_norm_eps"])
    writer.add_rope_freq_base(shape["rope_theta"])
    writer.add_leading_dense_block_count(shape["first_k_dense_replace"])
    writer.add_expert_count(shape["n_routed_experts"])
    writer.add_expert_used_count(shape["num_experts_per_tok"])
    writer.add_expert_shared_count(shape["n_shared_experts"])
    writer.add_expert_feed_forward_length(shape["moe_intermediate_size"])
    # Without it, llama.cpp takes softmax for a DeepSeek-V2 that has not Flash's vocabulary.
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_expert_weights_norm(bool(shape["norm_topk_prob"]))
    writer.add_expert_weights_scale(float(shape["routed_scaling_factor"]))
    if shape.latent:
        add_latent_metadata(writer, shape)
    else:
        writer.add_head_count_kv(shape["num_key_value_heads"])
        writer.add_key_length(shape["head_dim"])
        writer.add_value_length(shape["head_dim"])
        rotated = shape["head_dim"] * float(shape["partial_rotary_factor"])
        writer.add_rope_dimension_count(int(rotated))


def add_latent_metadata(writer: gguf.GGUFWriter, shape: Shape) -> None:
    """One head of keys, which are the latents and a rotated part; values are the latents."""
    latent, rope = shape["kv_lora_rank"], shape["qk_rope_head_dim"]
    writer.add_head_count_kv(1)
    writer.add_q_lora_rank(shape["q_lora_rank"])
    writer.add_kv_lora_rank(latent)
    writer.add_key_length(latent + rope)
    writer.add_value_length(latent)
    writer.add_key_length_mla(shape["qk_nope_head_dim"] + rope)
    writer.add_value_length_mla(shape["v_head_dim"])
    writer.add_rope_dimension_count(rope)


def tensors(shape: Shape) -> Iterator[Tensor]:
    """Every tensor of the file; the experts of a layer are one."""
    experts: dict[str, list[Part]] = {}
    for name, sizes in shape.tensors():
        if name in WHOLE:
            yield Tensor(WHOLE[name], [(name, sizes)])
            continue
        layer, inner, kind = re.fullmatch(r"model\.layers\.(\d+)\.(.*)\.(\w+)", name).groups()
        at = f"blk.{layer}"
        if expert := re.fullmatch(r"mlp\.experts\.(\d+)\.(\w+)_proj", inner):
            stacked = f"{at}.ffn_{expert[2]}_exps.weight"
            parts = experts.setdefault(stacked, [])
            parts.append((name, sizes))
            if len(parts) == shape["n_routed_experts"]:
                yield Tensor(stacked, experts.pop(stacked), numpy.stack)
        elif inner == "self_attn.kv_b_proj":
            yield from up_projections(shape, at, (name, sizes))
        elif kind == "e_score_correction_bias":
            yield Tensor(f"{at}.exp_probs_b.bias", [(name, sizes)])
        elif inner == "post_attention_layernorm":
            norm = "ffn_norm" if shape.latent else "post_attention_norm"
            yield Tensor(f"{at}.{norm}.weight", [(name, sizes)])
        else:
            yield Tensor(f"{at}.{LAYER[inner]}.{kind}", [(name, sizes)])


def up_projections(shape: Shape, at: str, part: Part) -> Iterator[Tensor]:
    """The two halves of `kv_b_proj` by head, that of the keys transposed."""
    heads, nope = shape["num_attention_heads"], shape["qk_nope_head_dim"]

    def by_head(parts: list[numpy.ndarray]) -> numpy.ndarray:
        return parts[0].reshape(heads, -1, shape["kv_lora_rank"])

    yield Tensor(f"{at}.attn_k_b.weight", [part], lambda p: by_head(p)[:, :nope].transpose(0, 2, 1))
    yield Tensor(f"{at}.attn_v_b.weight", [part], lambda p: by_head(p)[:, nope:])
