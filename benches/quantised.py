"""Says what fewer bits a weight do to a model: perplexity of a text, and how far logits move.

quantised.py --glm PROGRAM --ids FILE [--model FOLDER] [--quant fp8,q8,q4]

FILE is a JSON array of texts, each an array of token ids, or of objects with `prompt_ids` and the
answer's ids in `fp32.ids`, of which the answer counts. Everything is computed on the CPU, in F32; needs numpy and safetensors.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
from safetensors.numpy import load_file


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--glm", required=True, help="the program")
    parser.add_argument("--ids", required=True, type=pathlib.Path, metavar="FILE")
    parser.add_argument("--model", help="its folder; the built-in one if left out")
    parser.add_argument("--quant", type=words, default=["fp8", "q8", "q4"])
    return parser.parse_args()


def texts(file: pathlib.Path) -> list[tuple[list[int], int]]:
    """Token ids, and the place of the first that counts."""

    def text(given: list[int] | dict) -> tuple[list[int], int]:
        if isinstance(given, list):
            return given, 1
        prompt = given["prompt_ids"]
        return prompt + given["fp32"]["ids"], len(prompt)

    return [text(given) for given in json.loads(file.read_text(encoding="utf-8"))]


def logits(
    asked: argparse.Namespace, text: tuple[list[int], int], quant: str | None
) -> numpy.ndarray:
    """`[tokens that count, vocabulary]`, each of the token before it."""
    ids, first = text
    with tempfile.TemporaryDirectory() as folder:
        given, out = pathlib.Path(folder, "ids.json"), pathlib.Path(folder, "out.safetensors")
        given.write_text(json.dumps(ids), encoding="utf-8")
        command = [asked.glm, "inspect", *([asked.model] if asked.model else [])]
        command += ["--backend", "cpu", "--dtype", "f32", "--logits", str(given)]
        command += ["--out", str(out), *(["--quant", quant] if quant else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        return load_file(out)["logits"][first - 1 : -1].astype(numpy.float64)


def log_softmax(values: numpy.ndarray) -> numpy.ndarray:
    values = values - values.max(axis=-1, keepdims=True)
    return values - numpy.log(numpy.exp(values).sum(axis=-1, keepdims=True))


def main() -> None:
    asked = arguments()
    given = texts(asked.ids)
    exact = [logits(asked, text, None) for text in given]
    print("| weights | perplexity | error of logits, rms | largest | KL | same likeliest |")
    print("|---|---|---|---|---|---|")
    for quant in [None, *asked.quant]:
        negative, errors, spread, divergence, same = [], [], [], [], []
        for (ids, first), want in zip(given, exact, strict=True):
            got = logits(asked, (ids, first), quant) if quant else want
            ours, theirs = log_softmax(got), log_softmax(want)
            negative += [-ours[at, token] for at, token in enumerate(ids[first:])]
            errors.append(got - want)
            spread.append(want)
            divergence += list((numpy.exp(theirs) * (theirs - ours)).sum(axis=-1))
            same += list(got.argmax(axis=-1) == want.argmax(axis=-1))
        error = numpy.concatenate(errors)
        scale = numpy.concatenate(spread).std()
        line = [quant or "as stored", f"{numpy.exp(numpy.mean(negative)):.4f}"]
        line += [f"{numpy.sqrt((error**2).mean()) / scale:.2%}", f"{abs(error).max() / scale:.2%}"]
        line += [f"{numpy.mean(divergence):.5f}", f"{numpy.mean(same):.2%}"]
        print("| " + " | ".join(line) + " |")
    print(f"{len(numpy.concatenate(exact))} tokens; errors as shares of the deviation of logits ({scale:.2f})")


main()
