"""Writes the models of the comparison: seeded random weights, for glm and as GGUF files.

make_models.py [--models FOLDER] [--only NAME,...]

About 12 GB for both models. Files that are there are kept.
"""

import argparse
import json
import pathlib
import zlib

import gguf
import numpy
import tokenizers

import gguf_names
from shapes import CONFIGS, Shape, default_folder, is_quantised

SEED = 20
KINDS = {
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}


def rounded(values: numpy.ndarray) -> numpy.ndarray:
    """The nearest BF16 values, as f32."""
    bits = values.view(numpy.uint32)
    bits += 0x7FFF + ((bits >> 16) & 1)
    bits &= 0xFFFF0000
    return values


def weights(name: str, shape: list[int]) -> numpy.ndarray:
    """The values of a tensor, the same at each call."""
    random = numpy.random.default_rng([SEED, zlib.crc32(name.encode())])
    values = random.standard_normal(shape, dtype=numpy.float32)
    if name.endswith(("layernorm.weight", "model.norm.weight")):
        values = 1 + 0.1 * values
    else:
        values *= 0.02
    return values if is_f32(name) else rounded(values)


def is_f32(name: str) -> bool:
    return name.endswith("e_score_correction_bias")


def write_safetensors(shape: Shape, path: pathlib.Path) -> None:
    """One file of BF16 tensors, the biases of the router in F32, written tensor by tensor."""
    header, end = {}, 0
    for name, sizes in shape.tensors():
        start, kind = end, ("F32" if is_f32(name) else "BF16")
        end += int(numpy.prod(sizes)) * (4 if is_f32(name) else 2)
        header[name] = {"dtype": kind, "shape": sizes, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, sizes in shape.tensors():
            values = weights(name, sizes)
            if not is_f32(name):
                values = (values.view(numpy.uint32) >> 16).astype("<u2")
            file.write(values.tobytes())


def write_tokenizer(path: pathlib.Path, size: int) -> None:
    """A byte-level vocabulary of that size: bytes, pairs of bytes, and the end of a text."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    pairs = [(one, two) for one in alphabet for two in alphabet][: size - len(alphabet) - 1]
    tokens = alphabet + [one + two for one, two in pairs]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(path))


def write_checkpoint(shape: Shape, folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps(shape.config, indent=2) + "\n"
    (folder / "config.json").write_text(config, encoding="utf-8")
    write_tokenizer(folder / "tokenizer.json", shape["vocab_size"])
    write_safetensors(shape, folder / "model.safetensors")


def write_gguf(shape: Shape, kind: str, path: pathlib.Path) -> None:
    """The same weights for llama.cpp."""
    quantised, file_type = KINDS[kind]
    writer = gguf.GGUFWriter(path, gguf_names.architecture(shape))
    writer.add_file_type(file_type)
    gguf_names.add_metadata(writer, shape)
    for tensor in gguf_names.tensors(shape):
        values = tensor.take(weights)
        # llama.cpp wants vectors and the router in F32; glm keeps embeddings and head in BF16.
        stored = gguf.GGMLQuantizationType.BF16
        if values.ndim == 1 or "ffn_gate_inp" in tensor.name:
            stored = gguf.GGMLQuantizationType.F32
        elif is_quantised(*tensor.parts[0]):
            stored = quantised
        writer.add_tensor(tensor.name, gguf.quants.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make(shape: Shape, models: pathlib.Path) -> None:
    """Writes what is not there; a file gets its name when it is whole."""
    folder = shape.folder(models)
    if not folder.exists():
        print(folder, flush=True)
        part = folder.with_name(folder.name + ".part")
        write_checkpoint(shape, part)
        part.rename(folder)
    for kind in KINDS:
        path = shape.gguf(models, kind)
        if not path.exists():
            print(path, flush=True)
            part = path.with_name(path.name + ".part")
            write_gguf(shape, kind, part)
            part.rename(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", type=pathlib.Path, default=default_folder())
    parser.add_argument("--only", default=",".join(CONFIGS), help="names of models")
    asked = parser.parse_args()
    for name in asked.only.split(","):
        make(Shape(name), asked.models)


if __name__ == "__main__":
    main()
