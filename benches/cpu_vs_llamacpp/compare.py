"""Compares glm with llama.cpp, and on request with transformers, on the CPU.

compare.py --glm PROGRAM [--models FOLDER] [--only air-like] [--bits bf16,q8,fp8,q4] [--threads 1,8]

Rounds take turns: each reads the bandwidth of the memory and then runs every program once, each in
a process of its own. Prints a table of medians and writes all rounds as JSON.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import sys
import time

import check
import make_models
import programs
import timing
from shapes import BYTES, CONFIGS, GGUF, Shape, default_folder


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words = lambda text: text.split(",")  # noqa: E731
    threads = sorted({1, os.cpu_count() or 1})
    parser.add_argument("--glm", required=True, help="the program")
    parser.add_argument("--models", type=pathlib.Path, default=default_folder(), metavar="FOLDER")
    parser.add_argument("--only", type=words, default=list(CONFIGS), help=",".join(CONFIGS))
    parser.add_argument("--bits", type=words, default=list(BYTES), help=",".join(BYTES))
    parser.add_argument("--threads", type=timing.numbers, default=threads, help="such as 1,8")
    parser.add_argument("--depths", type=timing.numbers, default=[0, 4096], help="'' for none")
    parser.add_argument("--streams", type=int, default=8, help="sequences at once; 0 for none")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--output", type=int, default=128, help="tokens of the answer")
    parser.add_argument("--repeat", type=int, default=5, help="rounds")
    parser.add_argument("--transformers", action="store_true", help="a third column")
    parser.add_argument("--flash", choices=timing.FLASH, default="auto", help="of llama.cpp")
    parser.add_argument("--llama-lib", metavar="FOLDER", help="of a build of llama.cpp of yours")
    parser.add_argument("--no-check", action="store_true", help="do not compare logits first")
    parser.add_argument("--check-only", action="store_true", help="compare logits and no times")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("cpu-comparison.json"))
    asked = parser.parse_args()
    for given, known in [(asked.only, CONFIGS), (asked.bits, BYTES)]:
        if unknown := [name for name in given if name not in known]:
            parser.error(f"{unknown[0]}: known are {', '.join(known)}")
    return asked


def rounds(works: list[tuple], repeat: int) -> list[dict]:
    """Runs what is to be compared in turns; every other round in reverse order."""
    threads = works[0][1].threads
    done: list[dict] = []
    skipped: set[int] = set()
    for number in range(repeat):
        order = range(len(works)) if number % 2 == 0 else reversed(range(len(works)))
        bandwidth = programs.read_bandwidth(threads)
        for place in [place for place in order if place not in skipped]:
            program, work = works[place]
            label = f"{work.shape.name} {work.bits} {threads} threads, {program.name}"
            began = time.monotonic()
            try:
                found = program.measure(work)
            except programs.Skipped as reason:
                print(f"skipped: {label}: {reason}", file=sys.stderr, flush=True)
                skipped.add(place)
                continue
            seconds = time.monotonic() - began
            print(f"round {number + 1}: {label}: {seconds:.0f} s", file=sys.stderr, flush=True)
            about = {"round": number, "program": program.name, "model": work.shape.name}
            about |= {"bits": work.bits, "threads": threads, "bandwidth": bandwidth}
            done.append(about | found)
    return done


def works_of(asked: argparse.Namespace, shape: Shape, threads: int, file: str) -> list[tuple]:
    """Programs and what each does, for all formats that are compared with one file."""
    bits = [form for form in asked.bits if GGUF[form] == file]
    size = (asked.depths, asked.streams, asked.prompt, asked.output)
    work = {form: programs.Work(shape, form, threads, *size) for form in bits}
    works = [(programs.Glm(asked.models, asked.glm), work[form]) for form in bits]
    works.append((programs.llama_cpp(asked.models, asked.llama_lib, asked.flash), work[bits[0]]))
    if asked.transformers and file == "bf16":
        works.append((programs.transformers(asked.models), work["bf16"]))
    return works


def cells(done: list[dict]) -> dict[tuple, dict[str, dict[int, dict]]]:
    """By model, format, threads and what is measured: program, round, figures."""
    table: dict[tuple, dict[str, dict[int, dict]]] = {}
    for run in done:
        forms = [run["bits"]]
        if run["program"] == "llama.cpp":
            forms = [form for form in BYTES if GGUF[form] == GGUF[run["bits"]]]
        for row in run["rows"]:
            for form in forms:
                what = (row["what"], row["streams"], row["depth"])
                cell = table.setdefault((run["model"], form, run["threads"], *what), {})
                figures = {"rate": row["tokens_per_s"], "bandwidth": run["bandwidth"]}
                cell.setdefault(run["program"], {})[run["round"]] = figures
    return table


def share(
    asked: argparse.Namespace, key: tuple, program: str, runs: dict[int, dict]
) -> float | None:
    """What decoding reads a second, of the bandwidth of the same round."""
    model, form, _, what, streams, depth = key
    if what != "decode":
        return None
    before = asked.prompt if streams == 1 else timing.SHORT_PROMPT
    stored = {"fp8": "q8"}.get(form, form) if program == "llama.cpp" else form
    step = Shape(model).read_by_step(stored, streams, depth + before + asked.output / 2)
    shares = [step * run["rate"] / streams / run["bandwidth"] for run in runs.values()]
    return statistics.median(shares)


def ratio(ours: dict[int, dict], theirs: dict[int, dict]) -> float | None:
    """The median over the rounds that have both."""
    both = [ours[at]["rate"] / theirs[at]["rate"] for at in ours if at in theirs]
    return statistics.median(both) if both else None


def summary(asked: argparse.Namespace, done: list[dict]) -> list[dict]:
    rows = []
    for key, by_program in cells(done).items():
        if "glm" not in by_program and key[1] not in asked.bits:
            continue
        names = ("model", "bits", "threads", "what", "streams", "depth")
        row: dict[str, object] = dict(zip(names, key, strict=True))
        for program, runs in by_program.items():
            row[program] = statistics.median(run["rate"] for run in runs.values())
            row[f"{program} share"] = share(asked, key, program, runs)
            if program != "glm" and "glm" in by_program:
                row[f"glm/{program}"] = ratio(by_program["glm"], runs)
        bandwidths = [run["bandwidth"] for runs in by_program.values() for run in runs.values()]
        row["bandwidth"] = statistics.median(bandwidths)
        rows.append(row)
    return rows


def print_table(rows: list[dict], third: bool) -> None:
    def number(value: object, form: str) -> str:
        return "" if value is None else format(value, form)

    heads = ["model", "bits", "threads", "what", "depth", "glm", "llama.cpp", "glm/llama.cpp"]
    heads += ["read GB/s", "glm reads", "llama.cpp reads"]
    heads += ["transformers", "glm/transformers"] if third else []
    print("| " + " | ".join(heads) + " |")
    print("|---" * len(heads) + "|")
    for row in rows:
        what = row["what"] if row["streams"] == 1 else f"{row['what']}, {row['streams']} streams"
        line = [row["model"], row["bits"], row["threads"], what, row["depth"]]
        line += [number(row.get(name), ".1f") for name in ("glm", "llama.cpp")]
        line += [number(row.get("glm/llama.cpp"), ".2f"), number(row["bandwidth"] / 1e9, ".1f")]
        line += [number(row.get(f"{name} share"), ".0%") for name in ("glm", "llama.cpp")]
        if third:
            line += [number(row.get("transformers"), ".1f")]
            line += [number(row.get("glm/transformers"), ".2f")]
        print("| " + " | ".join(map(str, line)) + " |")


def write(asked: argparse.Namespace, done: list[dict]) -> list[dict]:
    rows = summary(asked, done)
    machine = {"machine": platform.machine(), "system": platform.system(), "cpus": os.cpu_count()}
    text = json.dumps({**machine, "rows": rows, "rounds": done}, indent=2)
    asked.out.write_text(text + "\n", encoding="utf-8")
    return rows


def main() -> None:
    asked = arguments()
    shapes = [Shape(name) for name in asked.only]
    for shape in shapes:
        make_models.make(shape, asked.models)
    if not asked.no_check or asked.check_only:
        compared = [
            programs.Glm(asked.models, asked.glm),
            programs.llama_cpp(asked.models, asked.llama_lib, asked.flash),
        ]
        references = [programs.transformers(asked.models), *compared]
        if not all([check.check(shape, asked.bits, compared, references) for shape in shapes]):
            sys.exit("not the same model: no times are taken")
        if asked.check_only:
            return
    done: list[dict] = []
    files = dict.fromkeys(GGUF[form] for form in asked.bits)
    for shape in shapes:
        for file in files:
            for threads in asked.threads:
                done += rounds(works_of(asked, shape, threads, file), asked.repeat)
                write(asked, done)
    print_table(write(asked, done), asked.transformers)
    about = {run["program"]: run for run in done}
    for run in about.values():
        print(f"{run['version']} {run.get('system', '')}".rstrip())
    for line in dict.fromkeys(about.get("llama.cpp", {}).get("said", [])):
        print(f"  {line}")


main()
