"""What tests/gpu.sh compares, with the standard library alone.

gpu_compare.py ids GOLDEN NAME OUT.json            recorded token ids as a JSON array
gpu_compare.py golden GOLDEN PREFIX DTYPE NUMERICS outputs of `glm inspect` against the recorded
gpu_compare.py transcripts FOLDER RECORDED -- COMMAND...
                                                   conversations of `glm run`, token for token
gpu_compare.py speed ANSWER.json                   tokens per second of `glm run --json`
"""

import array
import json
import math
import struct
import subprocess
import sys
import tempfile

# Relative L2. On the CPU f32 holds 1e-4; a GPU sums in another order.
F32_TOLERANCE = 1e-3
# bf16 and long FP8 prompts flip an expert now and then, which moves a whole row.
LEAST_COSINE = 0.99
# Largest distance of a logit, median over rows, at a standard deviation of about 3.
MEDIAN_TOLERANCE = 0.3


class Tensors:
    """A safetensors file."""

    def __init__(self, path):
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            self.header = json.loads(file.read(length))
            self.bytes = file.read()
        self.header.pop("__metadata__", None)

    def __contains__(self, name):
        return name in self.header

    def __getitem__(self, name):
        info = self.header[name]
        start, end = info["data_offsets"]
        values = array.array({"F32": "f", "I64": "q"}[info["dtype"]])
        values.frombytes(self.bytes[start:end])
        if sys.byteorder == "big":
            values.byteswap()
        return values

    def width(self, name):
        return self.header[name]["shape"][-1]


def relative_l2(got, want):
    if len(got) != len(want):
        raise SystemExit(f"{len(got)} values, wanted {len(want)}")
    distance = math.fsum((g - w) ** 2 for g, w in zip(got, want))
    return math.sqrt(distance / max(math.fsum(w * w for w in want), 1e-30))


def cosine(a, b):
    dot = lambda x, y: math.fsum(p * q for p, q in zip(x, y))
    return dot(a, b) / max(math.sqrt(dot(a, a) * dot(b, b)), 1e-30)


def median_off(got, want, width):
    rows = range(0, len(want), width)
    off = sorted(max(abs(got[i] - want[i]) for i in range(row, row + width)) for row in rows)
    return off[len(off) // 2]


class Checks:
    """Comparisons; the worst of them, and those that failed."""

    def __init__(self):
        self.count, self.worst, self.failures = 0, {}, []

    def at_most(self, kind, name, found, limit):
        self.count += 1
        self.worst[kind] = max(self.worst.get(kind, 0.0), found)
        # A NaN is not at most anything.
        if not found <= limit:
            self.failures.append(f"{name}: {kind} {found:.2e}, allowed {limit:.0e}")

    def equal(self, name, found, wanted):
        self.count += 1
        if list(found) != list(wanted):
            self.failures.append(f"{name}: {list(found)[:12]}, wanted {list(wanted)[:12]}")

    def finish(self):
        for failure in self.failures:
            print(failure)
        worst = ", ".join(f"{kind} {value:.1e}" for kind, value in sorted(self.worst.items()))
        print(f"{self.count - len(self.failures)} of {self.count} values agree; worst {worst}")
        return 1 if self.failures or not self.count else 0


def ids(path, name, out):
    with open(out, "w", encoding="utf-8") as file:
        json.dump(list(Tensors(path)[name]), file)
    return 0


def golden(path, prefix, dtype, numerics):
    recorded, checks = Tensors(path), Checks()
    # A checkpoint without FP8 weights has one kind of record.
    under = "w8a8." if numerics == "w8a8" else ""
    for length in (1, 7, 64):
        found = Tensors(f"{prefix}.{length}.safetensors")
        name = f"{under}prompt{length}.logits"
        want, got = recorded[name], found["logits"]
        if dtype == "f32" and (under == "" or length < 64):
            checks.at_most("relative L2", name, relative_l2(got, want), F32_TOLERANCE)
            trace(recorded, found, f"{under}trace{length}.", checks)
        elif length < 64:
            checks.at_most("1 - cosine", name, 1 - cosine(got, want), 1 - LEAST_COSINE)
        else:
            limit = MEDIAN_TOLERANCE
            if dtype == "bf16":
                # Twice as far as transformers' own run in bf16.
                theirs = recorded[f"bf16.{name}"]
                limit = 2 * median_off(theirs, want, recorded.width(name)) + 0.1
            checks.at_most("median", name, median_off(got, want, recorded.width(name)), limit)
        if "mtp.logits_step1" in found:
            drafts(recorded, found, f"{under}mtp.hf.", dtype == "f32" and under == "", checks)
    return checks.finish()


def trace(recorded, found, prefix, checks):
    for name in recorded.header:
        value = name.removeprefix(prefix)
        if value == name or value.startswith("router_gap"):
            continue
        if value.startswith("router_topk_ids"):
            checks.equal(name, found[value], recorded[name])
        else:
            checks.at_most("relative L2", name, relative_l2(found[value], recorded[name]), F32_TOLERANCE)


def drafts(recorded, found, prefix, exact, checks):
    name = f"{prefix}logits_step1"
    got, want = found["mtp.logits_step1"], recorded[name]
    if not exact:
        limit = 3 * MEDIAN_TOLERANCE
        checks.at_most("median", name, median_off(got, want, recorded.width(name)), limit)
        return
    checks.at_most("relative L2", name, relative_l2(got, want), F32_TOLERANCE)
    checks.equal(f"{prefix}chain_tokens", found["mtp.chain_tokens"], recorded[f"{prefix}chain_tokens"])
    name = f"{prefix}chain_logits"
    got = relative_l2(found["mtp.chain_logits"], recorded[name])
    checks.at_most("relative L2", name, got, F32_TOLERANCE)


def transcripts(folder, recorded, command):
    with open(f"{folder}/transcripts.json", encoding="utf-8") as file:
        cases = [case for case in json.load(file) if case["robust"]]
    failures = []
    for case in cases:
        request = {key: case[key] for key in ("messages", "tools")}
        request["chat_template_kwargs"] = case["template_kwargs"]
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
            json.dump(request, file)
            file.flush()
            arguments = ["--messages", file.name, "--greedy", "--json", "--max-tokens", "400"]
            done = subprocess.run(command + arguments, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(done.stderr)
            return 1
        answer = json.loads(done.stdout)
        if answer["prompt_token_ids"] != case["prompt_ids"]:
            failures.append(f"{case['name']}: another prompt")
        elif answer["token_ids"] != case[recorded]["ids"]:
            failures.append(f"{case['name']}: {answer['text']!r}")
    for failure in failures:
        print(failure)
    print(f"{len(cases) - len(failures)} of {len(cases)} conversations equal")
    return 1 if failures or not cases else 0


def speed(path):
    with open(path, encoding="utf-8") as file:
        answer = json.load(file)
    timings, count = answer["timings"], len(answer["token_ids"])
    if count == 0:
        print("no token")
        return 1
    rate = timings["decode_tokens_per_second"]
    first = timings["time_to_first_token_seconds"]
    print(f"{count} tokens, {rate or 0:.1f} tokens/s, first token after {first:.3f} s")
    return 0


def main(arguments):
    match arguments:
        case ["ids", path, name, out]:
            return ids(path, name, out)
        case ["golden", path, prefix, dtype, numerics]:
            return golden(path, prefix, dtype, numerics)
        case ["transcripts", folder, recorded, "--", *command]:
            return transcripts(folder, recorded, command)
        case ["speed", path]:
            return speed(path)
    print(__doc__, file=sys.stderr)
    return 2


sys.exit(main(sys.argv[1:]))
