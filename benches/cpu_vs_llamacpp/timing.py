"""What the programs under comparison are asked for, and the rows that they answer with."""

import argparse

Row = dict[str, object]

# Tokens of each of many streams before decoding is timed.
SHORT_PROMPT = 64
# Steps of the round that is not measured.
WARM_UP = 8
FLASH = {"auto": -1, "off": 0, "on": 1}


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def parser(description: str) -> argparse.ArgumentParser:
    """Of a program that times one model in one process."""
    it = argparse.ArgumentParser(description=description.split("\n", 1)[0])
    it.add_argument("model")
    it.add_argument("--threads", type=int, required=True)
    it.add_argument("--depths", type=numbers, default=[0], help="cached tokens, such as 0,4096")
    it.add_argument("--streams", type=int, default=0, help="also decode so many sequences at once")
    it.add_argument("--prompt", type=int, default=512, help="tokens of the prompt")
    it.add_argument("--output", type=int, default=128, help="tokens of the answer")
    it.add_argument("--logits", help="only compute the logits of the ids in this JSON file")
    it.add_argument("--out", help="where to write them")
    return it


def one_stream(depth: int, prefill: float, decode: float) -> list[Row]:
    """Of tokens a second; decoding follows the prompt."""
    return [
        {"what": "prefill", "streams": 1, "depth": depth, "tokens_per_s": prefill},
        {"what": "decode", "streams": 1, "depth": depth, "tokens_per_s": decode},
    ]


def many_streams(streams: int, step_seconds: float) -> Row:
    """Of the median step, in which each stream gets a token."""
    rate = streams / step_seconds
    return {"what": "decode", "streams": streams, "depth": 0, "tokens_per_s": rate}
