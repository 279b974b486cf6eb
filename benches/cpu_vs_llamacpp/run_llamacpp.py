"""Times llama.cpp by its C interface, as run_transformers.py does transformers; prints one object.

run_llamacpp.py FILE.gguf --threads N [--depths 0,4096] [--streams 8]
run_llamacpp.py FILE.gguf --threads N --logits IDS.json --out LOGITS.npy
"""

import argparse
import ctypes
import json
import pathlib
import random
import statistics
import time

import llama_cpp
import numpy

import llama_buffers
import timing

# What llama.cpp says while it loads that tells how it computes.
TELLING = ("flash attention", "flash_attn", "model buffer size")
DEBUG = 1
heard: dict[str, None] = {}


@llama_cpp.llama_log_callback
def hear(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    line = text.decode(errors="replace").strip()
    if level != DEBUG and any(word in line.lower() for word in TELLING):
        heard[line] = None


class Context:
    """A model and a cache for so many sequences of so many tokens."""

    def __init__(self, model, tokens: int, streams: int, asked: argparse.Namespace) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = streams * tokens
        params.n_seq_max = streams
        params.n_threads = params.n_threads_batch = asked.threads
        params.flash_attn_type = timing.FLASH[asked.flash]
        params.no_perf = True
        self.context = llama_cpp.llama_init_from_model(model, params)
        if not self.context:
            raise SystemExit("llama.cpp: no context")
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.chunk = llama_cpp.llama_n_batch(self.context)
        self.batch = llama_cpp.llama_batch_init(max(self.chunk, streams), 0, 1)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def compute(self, rows: list[tuple[int, int, int]], all_logits: bool = False) -> None:
        """One batch of (token, position, sequence); logits of the last row of each sequence."""
        last = {sequence: place for place, (_, _, sequence) in enumerate(rows)}
        self.batch.n_tokens = len(rows)
        for place, (token, position, sequence) in enumerate(rows):
            self.batch.token[place] = token
            self.batch.pos[place] = position
            self.batch.n_seq_id[place] = 1
            self.batch.seq_id[place][0] = sequence
            self.batch.logits[place] = all_logits or last[sequence] == place
        if (code := llama_cpp.llama_decode(self.context, self.batch)) != 0:
            raise SystemExit(f"llama_decode: {code}")
        llama_cpp.llama_synchronize(self.context)

    def ids(self, count: int) -> list[int]:
        return [random.randrange(self.vocabulary) for _ in range(count)]

    def prompt(self, start: int, count: int, sequence: int = 0) -> float:
        """Seconds that a prompt at a position takes."""
        ids = self.ids(count)
        began = time.perf_counter()
        for offset in range(0, count, self.chunk):
            part = enumerate(ids[offset : offset + self.chunk], start + offset)
            self.compute([(token, position, sequence) for position, token in part])
        return time.perf_counter() - began

    def steps(self, start: int, count: int, streams: int = 1) -> list[float]:
        """Seconds of each step of decoding, a random token a sequence."""
        seconds = []
        for position in range(start, start + count):
            rows = [(token, position, place) for place, token in enumerate(self.ids(streams))]
            began = time.perf_counter()
            self.compute(rows)
            seconds.append(time.perf_counter() - began)
        return seconds

    def forget_from(self, position: int) -> None:
        for sequence in range(llama_cpp.llama_n_seq_max(self.context)):
            llama_cpp.llama_memory_seq_rm(self.memory, sequence, position, -1)

    def logits(self, ids: list[int]) -> numpy.ndarray:
        self.compute([(token, place, 0) for place, token in enumerate(ids)], all_logits=True)
        pointer = llama_cpp.llama_get_logits(self.context)
        return numpy.ctypeslib.as_array(pointer, (len(ids), self.vocabulary)).copy()

    def close(self) -> None:
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)


def one_stream(context: Context, depth: int, asked: argparse.Namespace) -> list[timing.Row]:
    context.forget_from(0)
    context.prompt(0, depth)
    # The first round warms up.
    for decoded in (timing.WARM_UP, asked.output):
        context.forget_from(depth)
        prefill = context.prompt(depth, asked.prompt)
        decode = context.steps(depth + asked.prompt, decoded)
    return timing.one_stream(depth, asked.prompt / prefill, decoded / sum(decode))


def many_streams(context: Context, asked: argparse.Namespace) -> timing.Row:
    for decoded in (timing.WARM_UP, asked.output):
        context.forget_from(0)
        for sequence in range(asked.streams):
            context.prompt(0, timing.SHORT_PROMPT, sequence)
        decode = context.steps(timing.SHORT_PROMPT, decoded, asked.streams)
    return timing.many_streams(asked.streams, statistics.median(decode))


def measure(model, asked: argparse.Namespace) -> list[timing.Row]:
    rows = []
    if asked.depths:
        context = Context(model, max(asked.depths) + asked.prompt + asked.output, 1, asked)
        for depth in asked.depths:
            rows += one_stream(context, depth, asked)
        context.close()
    if asked.streams:
        context = Context(model, timing.SHORT_PROMPT + asked.output, asked.streams, asked)
        rows.append(many_streams(context, asked))
        context.close()
    return rows


def llama_version() -> str:
    """Of the library, where it tells."""
    tell = getattr(llama_cpp, "llama_version", None)
    return f"llama.cpp {tell().decode()}" if tell else "llama.cpp"


def main() -> None:
    parser = timing.parser(__doc__)
    parser.add_argument("--flash", choices=timing.FLASH, default="auto", help="flash attention")
    asked = parser.parse_args()
    llama_cpp.llama_log_set(hear, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    llama_buffers.keep_plain(params)
    model = llama_cpp.llama_model_load_from_file(asked.model.encode(), params)
    if not model:
        raise SystemExit(f"llama.cpp cannot load {asked.model}")
    random.seed(1)
    if asked.logits:
        ids = json.loads(pathlib.Path(asked.logits).read_text(encoding="utf-8"))
        numpy.save(asked.out, Context(model, len(ids), 1, asked).logits(ids))
        return
    rows = measure(model, asked)
    about = {
        "version": f"{llama_version()}, llama-cpp-python {llama_cpp.__version__}",
        "system": llama_cpp.llama_print_system_info().decode().strip(),
        "said": list(heard),
    }
    print(json.dumps(about | {"rows": rows}))


main()
