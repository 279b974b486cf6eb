"""How each program is called: a process for each measurement, an object on its output."""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy

import timing
from shapes import GGUF, Shape

HERE = pathlib.Path(__file__).parent


class Skipped(Exception):
    """Raised for a program that cannot do what is asked for."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What is measured in one process."""

    shape: Shape
    bits: str
    threads: int
    depths: list[int]
    streams: int
    prompt: int
    output: int

    def flags(self) -> list[str]:
        """For the programs beside this file."""
        numbers = {
            "--threads": self.threads,
            "--depths": ",".join(map(str, self.depths)),
            "--streams": self.streams,
            "--prompt": self.prompt,
            "--output": self.output,
        }
        return [str(word) for pair in numbers.items() for word in pair]


def output_of(command: list[str], environment: dict[str, str] | None = None) -> str:
    """Its standard output; what it says beside that is shown only where it fails."""
    # llama.cpp would start a debugger where it fails.
    environment = os.environ | {"GGML_NO_BACKTRACE": "1"} | (environment or {})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise Skipped(f"{pathlib.Path(command[0]).name} ended with {done.returncode}: {said}")
    return done.stdout


def script(name: str, *words: str, environment: dict[str, str] | None = None) -> str:
    return output_of([sys.executable, str(HERE / name), *words], environment)


def read_bandwidth(threads: int) -> float:
    return float(script("read_bandwidth.py", "--threads", str(threads)))


@functools.cache
def help_of(glm: str, command: str) -> str:
    return output_of([glm, *command.split(), "--help"])


@dataclasses.dataclass(frozen=True)
class Glm:
    """`glm bench`."""

    models: pathlib.Path
    program: str
    name: str = "glm"

    def flags(self, command: str, bits: str, threads: int | None) -> list[str]:
        """Of the format and the threads; refuses what this build does not have."""
        known = help_of(self.program, command)
        flags = ["--backend", "cpu"]
        if bits != "bf16":
            if bits not in known.partition("--quant")[2].partition("\n\n")[0]:
                raise Skipped(f"this glm has no --quant {bits}")
            flags += ["--quant", bits]
        if "--threads" in known and threads is not None:
            flags += ["--threads", str(threads)]
        elif threads not in (None, os.cpu_count()):
            raise Skipped("this glm has no --threads: it takes all of them")
        return flags

    def bench(self, what: str, work: Work, *words: object) -> list[dict]:
        command = ["bench", what]
        flags = self.flags(f"bench {what}", work.bits, work.threads)
        flags += ["--drafts", "0", "--json", "--output-tokens", str(work.output)]
        folder = str(work.shape.folder(self.models))
        text = output_of([self.program, *command, folder, *flags, *map(str, words)])
        return json.loads(text)["rows"]

    def measure(self, work: Work) -> dict[str, object]:
        rows: list[timing.Row] = []
        if work.depths:
            depths = ",".join(map(str, work.depths))
            words = ("--depth", depths, "--prompt-tokens", work.prompt, "--repeat", 1)
            for row in self.bench("latency", work, *words):
                rates = row["prompt_tokens_per_s"], row["output_tokens_per_s"]
                rows += timing.one_stream(int(row["depth"]), *rates)
        if work.streams:
            words = ("--streams", work.streams, "--requests", 1)
            words += ("--prompt-tokens", timing.SHORT_PROMPT)
            (row,) = self.bench("sweep", work, *words)
            rows.append(timing.many_streams(work.streams, row["itl_ms"]["p50"] / 1e3))
        version = output_of([self.program, "--version"]).strip()
        return {"version": version, "rows": rows}

    def logits(self, shape: Shape, bits: str, ids: list[int]) -> numpy.ndarray:
        from safetensors.numpy import load_file

        flags = self.flags("inspect", bits, None)
        with tempfile.TemporaryDirectory() as folder:
            ids_file = pathlib.Path(folder, "ids.json")
            out = pathlib.Path(folder, "out.safetensors")
            ids_file.write_text(json.dumps(ids), encoding="utf-8")
            words = ["--logits", str(ids_file), "--out", str(out)]
            output_of([self.program, "inspect", str(shape.folder(self.models)), *flags, *words])
            return load_file(out)["logits"]


@dataclasses.dataclass(frozen=True)
class Script:
    """A program beside this file."""

    models: pathlib.Path
    file: str
    name: str
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    extra: tuple[str, ...] = ()

    def model(self, shape: Shape, bits: str) -> str:
        raise NotImplementedError

    def measure(self, work: Work) -> dict[str, object]:
        words = [self.model(work.shape, work.bits), *work.flags(), *self.extra]
        return json.loads(script(self.file, *words, environment=self.environment))

    def logits(self, shape: Shape, bits: str, ids: list[int]) -> numpy.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            ids_file, out = pathlib.Path(folder, "ids.json"), pathlib.Path(folder, "out.npy")
            ids_file.write_text(json.dumps(ids), encoding="utf-8")
            threads = ["--threads", str(os.cpu_count() or 1)]
            words = [*threads, "--logits", str(ids_file), "--out", str(out)]
            script(self.file, self.model(shape, bits), *words, environment=self.environment)
            return numpy.load(out)


class LlamaCpp(Script):
    """llama.cpp in the format that is compared with one of glm's."""

    def model(self, shape: Shape, bits: str) -> str:
        return str(shape.gguf(self.models, GGUF[bits]))


class Transformers(Script):
    """transformers, which only has BF16 here."""

    def model(self, shape: Shape, bits: str) -> str:
        if bits != "bf16":
            raise Skipped("transformers is measured in BF16 only")
        return str(shape.folder(self.models))


def llama_cpp(models: pathlib.Path, library: str | None, flash: str) -> LlamaCpp:
    environment = {"LLAMA_CPP_LIB_PATH": library} if library else {}
    return LlamaCpp(models, "run_llamacpp.py", "llama.cpp", environment, ("--flash", flash))


def transformers(models: pathlib.Path) -> Transformers:
    return Transformers(models, "run_transformers.py", "transformers")
