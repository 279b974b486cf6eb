"""Bytes a second that so many processes read from memory together; prints one number.

read_bandwidth.py --threads N [--gib SIZE] [--passes N]
"""

import argparse
import multiprocessing
import time

import numpy

# Elements that are reduced at once: the calls cost nothing beside them.
BLOCK = 1 << 23


def read(buffer: numpy.ndarray) -> None:
    for start in range(0, len(buffer), BLOCK):
        buffer[start : start + BLOCK].max()


def worker(barrier, size: int, passes: int) -> None:
    # Written once: untouched pages would all be one page of zeros.
    buffer = numpy.ones(size // 8, dtype=numpy.int64)
    for _ in range(passes):
        barrier.wait()
        read(buffer)
        barrier.wait()


def bandwidth(threads: int, gib: float, passes: int) -> float:
    """Of the fastest pass, over a buffer of `gib` that the processes share out."""
    size = int(gib * (1 << 30)) // threads
    barrier = multiprocessing.Barrier(threads + 1)
    workers = [
        multiprocessing.Process(target=worker, args=(barrier, size, passes), daemon=True)
        for _ in range(threads)
    ]
    for process in workers:
        process.start()
    fastest = float("inf")
    for _ in range(passes):
        barrier.wait()
        began = time.perf_counter()
        barrier.wait()
        fastest = min(fastest, time.perf_counter() - began)
    for process in workers:
        process.join()
    return threads * size / fastest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--gib", type=float, default=2)
    parser.add_argument("--passes", type=int, default=8)
    asked = parser.parse_args()
    print(bandwidth(asked.threads, asked.gib, asked.passes))


if __name__ == "__main__":
    main()
