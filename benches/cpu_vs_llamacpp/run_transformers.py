"""Times transformers on the CPU in BF16; prints one object.

run_transformers.py FOLDER --threads N [--depths 0,4096] [--streams 8]
run_transformers.py FOLDER --threads N --logits IDS.json --out LOGITS.npy     (in F32)
"""

import argparse
import copy
import json
import pathlib
import statistics
import time

import numpy
import torch
import transformers

import timing


class Model:
    """A model and what it has cached."""

    def __init__(self, folder: str, dtype: torch.dtype) -> None:
        load = transformers.AutoModelForCausalLM.from_pretrained
        self.model = load(folder, dtype=dtype).eval()
        self.cache = None

    def compute(self, ids: torch.Tensor, logits: int = 1) -> torch.Tensor:
        out = self.model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=logits)
        self.cache = out.past_key_values
        return out.logits

    def ids(self, streams: int, tokens: int) -> torch.Tensor:
        return torch.randint(self.model.config.vocab_size, (streams, tokens))

    def prompt(self, tokens: int, streams: int = 1) -> float:
        """Seconds that prompts take, in chunks."""
        ids = self.ids(streams, tokens)
        began = time.perf_counter()
        for part in ids.split(512, dim=1):
            if part.numel():
                self.compute(part)
        return time.perf_counter() - began

    def steps(self, count: int, streams: int = 1) -> list[float]:
        """Seconds of each step of decoding, a random token a stream."""
        seconds = []
        for ids in self.ids(count, streams)[:, :, None]:
            began = time.perf_counter()
            self.compute(ids)
            seconds.append(time.perf_counter() - began)
        return seconds


def one_stream(model: Model, depth: int, asked: argparse.Namespace) -> list[timing.Row]:
    model.cache = None
    model.prompt(depth)
    filled = model.cache
    for decoded in (timing.WARM_UP, asked.output):
        model.cache = copy.deepcopy(filled)
        prefill = model.prompt(asked.prompt)
        decode = model.steps(decoded)
    return timing.one_stream(depth, asked.prompt / prefill, decoded / sum(decode))


def many_streams(model: Model, asked: argparse.Namespace) -> timing.Row:
    for decoded in (timing.WARM_UP, asked.output):
        model.cache = None
        model.prompt(timing.SHORT_PROMPT, asked.streams)
        decode = model.steps(decoded, asked.streams)
    return timing.many_streams(asked.streams, statistics.median(decode))


@torch.inference_mode()
def main() -> None:
    asked = timing.parser(__doc__).parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(1)
    torch.set_num_threads(asked.threads)
    model = Model(asked.model, torch.float32 if asked.logits else torch.bfloat16)
    if asked.logits:
        ids = json.loads(pathlib.Path(asked.logits).read_text(encoding="utf-8"))
        numpy.save(asked.out, model.compute(torch.tensor([ids]), logits=0)[0].numpy())
        return
    rows = [row for depth in asked.depths for row in one_stream(model, depth, asked)]
    if asked.streams:
        rows.append(many_streams(model, asked))
    version = f"transformers {transformers.__version__}, torch {torch.__version__}"
    print(json.dumps({"version": version, "rows": rows}))


main()
