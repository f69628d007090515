"""Damage to files, drawn from a seed: to any bytes, to text, to JSON and to binary headers with known fields.

Every mutator takes a `random.Random` and the whole content, and returns the damaged content, so that a reader of any
format can be fuzzed by joining some: `damaged(rng, content, [bytes_damaged, text_damaged])`.
"""

import json
import random
from collections.abc import Callable, Sequence

import numpy as np

Mutator = Callable[[random.Random, bytes], bytes]

ODD_INTEGERS = (0, 1, -1, 2, 3, 7, 127, 128, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**62)
ODD_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-38, 1e38, 1e300, -1e300, float("nan"), float("inf"), float("-inf"), 0.5, 1500.0)
ODD_TEXTS = (
    *("", " ", "nan", "NaN", "inf", "-inf", "1e400", "-0", "0", "1e-400", "٣", "½", "0x10", "1_000", "1,5", "--", "#"),
    *('"', "'", ";", "\t", "\x00", "\x1b[31m", "\r", "\u2028", "\ufeff", "ÄÖ☢", "../../x", "/dev/zero", "%s%n", "=1+1"),
    *("9" * 400, "x" * 5000, "[" * 50, "true", "null", "-1", "1e9", "0.0000001"),
)
ODD_VALUES = (
    *(None, True, False, [], {}, [[]], "", "0.03", 0, -1, 1e308, 10**400, float("nan"), float("inf"), "\ud800"),
    *([0.03], [1, 2, 3], ["a"], [None] * 16, {"a": 1}, "x" * 5000, [10**400] * 16, [[0.0]] * 16),
)


def damaged(rng: random.Random, content: bytes, mutators: Sequence[Mutator]) -> bytes:
    """Return `content` after one to three of the mutators."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice(mutators)(rng, content)
    return content


def bytes_damaged(rng: random.Random, content: bytes) -> bytes:
    """Flip, overwrite, cut, repeat, remove or insert somewhere; the first kilobyte is hit as often as all the rest."""
    data = bytearray(content)
    at = rng.randrange(len(data) + 1)
    if rng.random() < 0.5:
        at = min(at, rng.randrange(1024))
    length = rng.choice((1, 1, 2, 4, 8, 64, 700))
    kind = rng.randrange(8)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[at : at + length] = rng.randbytes(min(length, max(0, len(data) - at)))
    elif kind == 2:
        size = rng.choice((1, 2, 4, 8))
        value = rng.choice(ODD_INTEGERS) % (1 << 8 * size)
        data[at : at + size] = value.to_bytes(size, rng.choice(("little", "big")))
    elif kind == 3:
        value = rng.choice(ODD_FLOATS)
        with np.errstate(over="ignore"):
            data[at : at + 4] = np.array(value, rng.choice(("<f4", ">f4"))).tobytes()
    elif kind == 4:
        del data[at:]
    elif kind == 5:
        data[at:at] = data[max(0, at - length) : at] * rng.choice((1, 2, 50))
    elif kind == 6:
        del data[at : at + length]
    else:
        data[at : at + length] = bytes([rng.choice((0, 0xFF, 0x20, 0x41))]) * length
    return bytes(data)


def text_damaged(rng: random.Random, content: bytes) -> bytes:
    """Put something odd for one token, or double, remove or swap whole lines."""
    lines = content.decode("utf-8", errors="surrogateescape").split("\n")
    at = rng.randrange(min(len(lines), 30))  # the header of what has one
    kind = rng.randrange(6)
    if kind <= 2:
        for mark in rng.sample((",", " ", ":", "=", ";"), 5):
            tokens = lines[at].split(mark)
            if len(tokens) > 1 or mark == ";":
                tokens[rng.randrange(len(tokens))] = rng.choice(ODD_TEXTS)
                lines[at] = mark.join(tokens)
                break
    elif kind == 3:
        lines[at:at] = [lines[at]] * rng.choice((1, 3, 40))
    elif kind == 4:
        del lines[at]
    else:
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    return "\n".join(lines).encode("utf-8", errors="surrogateescape")


def json_damaged(rng: random.Random, content: bytes) -> bytes:
    """Put something odd for a value at any depth, or drop or add a key; what is no JSON is returned as it is."""
    try:
        whole = values = json.loads(content)
        keys = list(values)
    except (ValueError, TypeError, RecursionError):
        return content
    if not isinstance(values, dict) or not keys:
        return content
    while rng.random() < 0.5:
        deeper = [inner for inner in values.values() if isinstance(inner, dict) and inner]
        if not deeper:
            break
        values = rng.choice(deeper)
        keys = list(values)
    kind = rng.randrange(5)
    if kind == 0:
        return b"[" * rng.choice((10, 200_000)) + content
    if kind == 1:
        values.pop(rng.choice(keys))
    elif kind == 2:
        values[rng.choice(("VolumeTiming", "FrameTimesStart", "RepetitionTime", "EchoTime"))] = rng.choice(ODD_VALUES)
    else:
        values[rng.choice(keys)] = rng.choice(ODD_VALUES)
    return json.dumps(whole, ensure_ascii=True).encode()


def header_damaged(layout: np.dtype) -> Mutator:
    """Return a mutator that puts an odd value into one field of a binary header at the start of the content."""

    def mutate(rng: random.Random, content: bytes) -> bytes:
        if len(content) < layout.itemsize:
            return content
        header = np.frombuffer(content[: layout.itemsize], layout).copy()
        field = header[rng.choice(layout.names or ())].reshape(-1)
        at = rng.randrange(field.size)
        with np.errstate(all="ignore"):
            if field.dtype.kind == "f":
                field[at] = rng.choice(ODD_FLOATS)
            elif field.dtype.kind in "iu":
                bits = field.dtype.itemsize * 8
                field[at] = np.array(rng.choice(ODD_INTEGERS) % (1 << bits), f"u{bits // 8}").view(f"i{bits // 8}")
            else:
                field[at] = rng.randbytes(field.dtype.itemsize)
        return header.tobytes() + content[layout.itemsize :]

    return mutate
