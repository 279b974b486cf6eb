"""Times transformers on the shapes of validate.sh: a model of config.json with random weights.

transformers_reference.py CONFIG.json --contexts 0,8192 --batches 1,8 --prompts 512 --tokens 64

Prints one JSON object; on standard error a line that begins with `skipped: ` where torch or
transformers are not there, or the model does not fit. A context of 0 is decoded after a prompt of
64 tokens, as there. Weights are BF16, on a CPU f32.
"""

import argparse
import json
import sys
import time

# Tokens of the context that are computed at once: the rest of memory is for the cache.
CHUNK = 2048


def skipped(reason):
    print(f"skipped: {reason}", file=sys.stderr)
    sys.exit(0)


try:
    import torch
    import transformers
except ImportError as error:
    skipped(error)


def numbers(text):
    return [int(number) for number in text.split(",")]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("config")
    parser.add_argument("--contexts", type=numbers, default=[0])
    parser.add_argument("--batches", type=numbers, default=[1])
    parser.add_argument("--prompts", type=numbers, default=[512])
    parser.add_argument("--tokens", type=int, default=64)
    return parser.parse_args()


class Model:
    """A model with random weights, and a clock that waits for the device."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            fields = json.load(file)
        self.cuda = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.cuda else "cpu")
        dtype = torch.bfloat16 if self.cuda else torch.float32
        name = fields.pop("model_type")
        # The layer that drafts is not part of it there.
        fields.pop("num_nextn_predict_layers", None)
        try:
            config = transformers.AutoConfig.for_model(name, **fields)
        except ValueError as error:
            skipped(f"transformers {transformers.__version__}: {str(error).splitlines()[0]}")
        with torch.device("meta"):
            empty = transformers.AutoModelForCausalLM.from_config(config)
        weights = sum(tensor.numel() for tensor in empty.parameters())
        bytes_wanted = weights * torch.finfo(dtype).bits // 8
        if self.cuda and bytes_wanted > 0.9 * torch.cuda.mem_get_info()[0]:
            skipped(f"{bytes_wanted / 1e9:.0f} GB of weights, more than the device has left")
        self.model = empty.to(dtype).to_empty(device=self.device).eval()
        generator = torch.Generator(self.device).manual_seed(1)
        for tensor in self.model.parameters():
            tensor.data.normal_(0.0, 0.02, generator=generator)
        for name, buffer in self.model.named_buffers():
            # Rotary frequencies and biases of the router; any values take the same time.
            buffer.data.fill_(0.01 if buffer.is_floating_point() else 0)
        self.vocabulary = config.vocab_size

    def now(self):
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def ids(self, batch, tokens):
        return torch.randint(self.vocabulary, (batch, tokens), device=self.device)

    def forward(self, ids, cache):
        out = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.past_key_values, out.logits[:, -1:].argmax(-1)

    def prefill(self, batch, tokens):
        cache = None
        for start in range(0, tokens, CHUNK):
            cache, token = self.forward(self.ids(batch, min(CHUNK, tokens - start)), cache)
        return cache, token

    def prompt(self, tokens):
        """Tokens per second of a prompt; the second of two runs."""
        for _ in range(2):
            began = self.now()
            self.prefill(1, tokens)
            seconds = self.now() - began
        return tokens / seconds

    def decode(self, batch, context, tokens):
        """Tokens per second of all streams together."""
        cache, token = self.prefill(batch, max(context, 64))
        for _ in range(3):
            cache, token = self.forward(token, cache)
        began = self.now()
        for _ in range(tokens):
            cache, token = self.forward(token, cache)
        return batch * tokens / (self.now() - began)


def measured(run):
    """What `run` gives; None where memory does not suffice."""
    try:
        return run()
    except torch.OutOfMemoryError:
        return None
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@torch.inference_mode()
def main():
    asked = arguments()
    model = Model(asked.config)
    rows = []
    for tokens in asked.prompts:
        rate = measured(lambda: model.prompt(tokens))
        rows.append({"what": "prefill", "context": tokens, "streams": 1, "tokens_per_s": rate})
    for context in asked.contexts:
        for batch in asked.batches:
            rate = measured(lambda: model.decode(batch, context, asked.tokens))
            row = {"what": "decode", "context": context, "streams": batch, "tokens_per_s": rate}
            rows.append(row)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps({**versions, "device": str(model.device), "rows": rows}, indent=2))
    print(f"{sum(row['tokens_per_s'] is not None for row in rows)} shapes", file=sys.stderr)


main()
