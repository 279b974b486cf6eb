"""Whether the programs compute the same model, by the logits of a short text."""

import random

import numpy

import programs
from shapes import Shape

TOKENS = 32
# Least median cosine, and share of tokens with the same likeliest next one. Not the mean: where two
# experts are as good as equal, rounding chooses the other one, and a few tokens differ.
WANTED = {"bf16": (0.999, 0.75), "q8": (0.99, 0.5), "fp8": (0.95, 0.3), "q4": (0.8, 0.05)}


def cosines(one: numpy.ndarray, other: numpy.ndarray) -> numpy.ndarray:
    """Of each row."""
    norms = numpy.linalg.norm(one, axis=1) * numpy.linalg.norm(other, axis=1)
    return (one * other).sum(axis=1) / norms


def of_first(references: list, shape: Shape, ids: list[int]) -> numpy.ndarray:
    """The logits of the first program that is there."""
    for program in references:
        try:
            return program.logits(shape, "bf16", ids).astype(numpy.float32)
        except programs.Skipped as reason:
            print(f"check {shape.name}: {program.name} is no reference: {reason}", flush=True)
    raise SystemExit("nothing to compare with")


def check(shape: Shape, bits: list[str], compared: list, references: list) -> bool:
    """Prints a line for each program and format; false where one computes another model."""
    ids = random.Random(7).choices(range(shape["vocab_size"]), k=TOKENS)
    wanted = of_first(references, shape, ids)
    right = True
    for form in bits:
        for program in compared:
            label = f"check {shape.name} {form:4} {program.name:9}"
            try:
                found = program.logits(shape, form, ids).astype(numpy.float32)
            except programs.Skipped as reason:
                print(f"{label} skipped: {reason}", flush=True)
                continue
            cosine = cosines(found, wanted)
            middle = float(numpy.median(cosine))
            same = float((found.argmax(axis=1) == wanted.argmax(axis=1)).mean())
            good = middle >= WANTED[form][0] and same >= WANTED[form][1]
            right &= good
            figures = f"cosine {middle:.5f} (least {cosine.min():.3f}), same likeliest {same:.0%}"
            print(f"{label} {figures}{'' if good else ': NOT THE SAME MODEL'}", flush=True)
    return right
