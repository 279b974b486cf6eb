"""Measures how long `glm run` takes from its start to the first text of the answer.

first_token.py --glm PROGRAM [--repeat 20] [--most SECONDS] [WORDS OF `glm run` …]

The first run, which reads the program from the disk, does not count. Prints the median and the
slowest; ends with exit code 1 where the median is above --most (0.3 s for the built-in model).
"""

import argparse
import statistics
import subprocess
import sys
import time


def first_text(command: list[str]) -> float:
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
        text = program.stdout.read1(1)  # type: ignore[union-attr]
        seconds = time.monotonic() - began
        program.communicate()
    if not text or program.returncode:
        sys.exit(f"no answer, exit code {program.returncode}: {' '.join(command)}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--glm", required=True, help="the program")
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--most", type=float, default=0.3, metavar="SECONDS")
    asked, words = parser.parse_known_args()
    command = [asked.glm, "run", *(words or ["--backend", "cpu", "What is 7 + 5?"])]
    times = [first_text(command) for _ in range(asked.repeat + 1)][1:]
    median = statistics.median(times)
    print(f"first text after {median:.3f} s (slowest of {len(times)}: {max(times):.3f} s)")
    if median > asked.most:
        sys.exit(f"more than {asked.most} s")


main()
