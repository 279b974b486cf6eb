"""The two models of the comparison: their config.json, their tensors, and what a step reads."""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Iterator

SHARED: dict[str, object] = {
    "attention_dropout": 0.0,
    "dtype": "bfloat16",
    "eos_token_id": [32767],
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "max_position_embeddings": 16384,
    "n_group": 1,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 6,
    "num_nextn_predict_layers": 0,
    "pad_token_id": 32767,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "use_cache": True,
    "vocab_size": 32768,
}

CONFIGS: dict[str, dict[str, object]] = {
    # GLM-4.5-Air, half as wide, with an eighth of the experts
    "air-like": SHARED
    | {
        "architectures": ["Glm4MoeForCausalLM"],
        "model_type": "glm4_moe",
        "attention_bias": True,
        "head_dim": 128,
        "intermediate_size": 5632,
        "moe_intermediate_size": 1408,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "partial_rotary_factor": 0.5,
        "routed_scaling_factor": 1.0,
        "use_qk_norm": False,
    },
    # GLM-4.7-Flash at its widths, with a quarter of the experts
    "flash-like": SHARED
    | {
        "architectures": ["Glm4MoeLiteForCausalLM"],
        "model_type": "glm4_moe_lite",
        "attention_bias": False,
        "intermediate_size": 10240,
        "kv_lora_rank": 512,
        "moe_intermediate_size": 1536,
        "num_attention_heads": 20,
        "num_key_value_heads": 20,
        "partial_rotary_factor": 1.0,
        "q_lora_rank": 768,
        "qk_nope_head_dim": 192,
        "qk_rope_head_dim": 64,
        "routed_scaling_factor": 1.8,
        "topk_method": "noaux_tc",
        "v_head_dim": 256,
    },
}

# Bytes of one weight of a matrix that may be quantised: 32 weights share a scale of two bytes.
BYTES = {"bf16": 2.0, "fp8": 1.0, "q8": 34 / 32, "q4": 18 / 32}
# The file of llama.cpp that each format is compared with.
GGUF = {"bf16": "bf16", "fp8": "q8_0", "q8": "q8_0", "q4": "q4_0"}


def default_folder() -> pathlib.Path:
    """Where the models are written when no folder is named."""
    if sys.platform == "darwin":
        cache = pathlib.Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        cache = pathlib.Path(os.environ.get("LOCALAPPDATA", pathlib.Path.home()))
    else:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    return cache / "glm-cpu-bench" / "models"


@dataclasses.dataclass(frozen=True)
class Shape:
    """One model."""

    name: str

    @property
    def config(self) -> dict[str, object]:
        return CONFIGS[self.name]

    def __getitem__(self, key: str) -> int:
        return self.config[key]  # type: ignore[return-value]

    @property
    def latent(self) -> bool:
        """Whether attention is multi-head latent attention."""
        return "kv_lora_rank" in self.config

    def folder(self, models: pathlib.Path) -> pathlib.Path:
        return models / self.name

    def gguf(self, models: pathlib.Path, kind: str) -> pathlib.Path:
        return models / f"{self.name}-{kind}.gguf"

    def is_dense(self, layer: int) -> bool:
        return layer < self["first_k_dense_replace"]

    def tensors(self) -> Iterator[tuple[str, list[int]]]:
        """Names and shapes, as the checkpoint has them."""
        hidden, vocabulary = self["hidden_size"], self["vocab_size"]
        yield "model.embed_tokens.weight", [vocabulary, hidden]
        for layer in range(self["num_hidden_layers"]):
            at = f"model.layers.{layer}"
            yield f"{at}.input_layernorm.weight", [hidden]
            yield f"{at}.post_attention_layernorm.weight", [hidden]
            attention = self._latent_attention() if self.latent else self._attention()
            for name, shape in attention:
                yield f"{at}.self_attn.{name}", shape
            for name, shape in self._dense() if self.is_dense(layer) else self._experts():
                yield f"{at}.mlp.{name}", shape
        yield "model.norm.weight", [hidden]
        yield "lm_head.weight", [vocabulary, hidden]

    def _attention(self) -> Iterator[tuple[str, list[int]]]:
        hidden, width = self["hidden_size"], self["head_dim"]
        heads, kv_heads = self["num_attention_heads"], self["num_key_value_heads"]
        for part, rows in [("q", heads * width), ("k", kv_heads * width), ("v", kv_heads * width)]:
            yield f"{part}_proj.weight", [rows, hidden]
            yield f"{part}_proj.bias", [rows]
        yield "o_proj.weight", [hidden, heads * width]

    def _latent_attention(self) -> Iterator[tuple[str, list[int]]]:
        hidden, heads = self["hidden_size"], self["num_attention_heads"]
        nope, rope = self["qk_nope_head_dim"], self["qk_rope_head_dim"]
        q_rank, kv_rank, value = self["q_lora_rank"], self["kv_lora_rank"], self["v_head_dim"]
        yield "q_a_proj.weight", [q_rank, hidden]
        yield "q_a_layernorm.weight", [q_rank]
        yield "q_b_proj.weight", [heads * (nope + rope), q_rank]
        yield "kv_a_proj_with_mqa.weight", [kv_rank + rope, hidden]
        yield "kv_a_layernorm.weight", [kv_rank]
        yield "kv_b_proj.weight", [heads * (nope + value), kv_rank]
        yield "o_proj.weight", [hidden, heads * value]

    def _gated(self, width: int) -> Iterator[tuple[str, list[int]]]:
        hidden = self["hidden_size"]
        yield "gate_proj.weight", [width, hidden]
        yield "up_proj.weight", [width, hidden]
        yield "down_proj.weight", [hidden, width]

    def _dense(self) -> Iterator[tuple[str, list[int]]]:
        yield from self._gated(self["intermediate_size"])

    def _experts(self) -> Iterator[tuple[str, list[int]]]:
        experts, width = self["n_routed_experts"], self["moe_intermediate_size"]
        yield "gate.weight", [experts, self["hidden_size"]]
        yield "gate.e_score_correction_bias", [experts]
        for expert in range(experts):
            for name, shape in self._gated(width):
                yield f"experts.{expert}.{name}", shape
        for name, shape in self._gated(width * self["n_shared_experts"]):
            yield f"shared_experts.{name}", shape

    def read_by_step(self, bits: str, streams: int, context: float) -> float:
        """Bytes that one decode step of so many streams reads, each with so many cached tokens.

        Of the experts those count that independent choices of the streams are expected to hit.
        """
        experts, chosen = self["n_routed_experts"], self["num_experts_per_tok"]
        hit = 1 - (1 - chosen / experts) ** streams
        total = 0.0
        for name, shape in self.tensors():
            if name == "model.embed_tokens.weight" or len(shape) < 2:
                continue
            weights = shape[0] * shape[1] * (hit if ".experts." in name else 1)
            total += weights * (BYTES[bits] if is_quantised(name, shape) else BYTES["bf16"])
        return total + streams * context * self.cached_bytes()

    def cached_bytes(self) -> int:
        """Bytes of one token in a cache of two-byte values."""
        if self.latent:
            values = self["kv_lora_rank"] + self["qk_rope_head_dim"]
        else:
            values = 2 * self["num_key_value_heads"] * self["head_dim"]
        return 2 * values * self["num_hidden_layers"]


def is_quantised(name: str, shape: list[int]) -> bool:
    """Whether a tensor is stored in fewer bits where the format has fewer, in all programs."""
    kept = ("embed_tokens.weight", "lm_head.weight", "mlp.gate.weight")
    return len(shape) == 2 and not name.endswith(kept)
