"""What each number format costs: python -m ternlight_sim.numerics prints the tables of docs/numerics.md.

One choice at a time is made in the float reference, everything else stays exact; the last row is the integer golden
model, with all choices that were made. A format is judged on a text of the model: how many more bits the text
costs, and how often the most probable token is another one.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ternlight.commands.eval import ROOMY_SIZES
from ternlight.commands.text import read_tokens
from ternlight.compact import decode, encode
from ternlight.compiler import MARGIN_BITS, compile_image, quantise_rows
from ternlight.errors import TernlightError
from ternlight.formats import ACTIVATION_BITS, COMPACT_BITS, ELEMENT_BITS, STATE_BITS
from ternlight.geometry import Geometry
from ternlight.image import Image
from ternlight.sigmoid import INPUT_FRACTION, OUTPUT_FRACTION, SEGMENTS, Z_BITS

from .evaluate import CONTEXT, LanguageModel, evaluate, windows
from .float_reference import FloatReference, Formats, Reals, Tokens
from .float_reference import sigmoid as exact_sigmoid
from .golden.vector import embed
from .machine import Machine
from .random_model import random_config, random_image

STREAMS = 32
TOKENS = 8192
NOISES = (-20, -10)
"""Relative noise on the residual, as powers of two, to compare with: what costs no more than the first is chance."""
SIGMOID_SPAN = 1 << Z_BITS - 1 - INPUT_FRACTION
"""The table's range."""
RANDOM_SHAPE = {"hidden": 128, "intermediate": 256, "layers": 4, "vocabulary": 512}


class Choice(NamedTuple):
    """A format of one part, and the model that has it."""

    part: str
    format: str
    model: LanguageModel[Any]


class Cost(NamedTuple):
    """Relative to the exact reference: more bits per byte, and the share of greedy choices that differ."""

    bits: float
    choices: float


def fixed(bits: int, fraction: int, *, truncated: bool = False) -> Callable[[Reals], Reals]:
    """Signed fixed point: rounded half up (or towards minus infinity), saturating."""
    limit = 1 << bits - 1

    def narrow(values: Reals) -> Reals:
        steps = np.floor(np.ldexp(values, fraction) + (0.0 if truncated else 0.5))
        result: Reals = np.ldexp(np.clip(steps, -limit, limit - 1), -fraction)
        return result

    return narrow


def calibrated(bits: int, peak: float, *, truncated: bool = False) -> Callable[[Reals], Reals]:
    """Fixed point with the compiler's margin over a calibrated peak."""
    return fixed(bits, bits - 1 - MARGIN_BITS - _exponent(peak), truncated=truncated)


def compact_state(peak: float) -> Callable[[Reals], Reals]:
    """The state as the device keeps it: STATE_BITS, of which the memory holds a code of COMPACT_BITS."""
    fraction = min(max(STATE_BITS - 1 - MARGIN_BITS - _exponent(peak), 0), INPUT_FRACTION)
    narrow = fixed(STATE_BITS, fraction)

    def keep(values: Reals) -> Reals:
        integers = np.ldexp(narrow(values), fraction).astype(np.int64)
        result: Reals = np.ldexp(decode(encode(integers)).astype(np.float64), -fraction)
        return result

    return keep


def gate(fraction: int) -> Callable[[Reals], Reals]:
    """An unsigned fraction below 1."""

    def narrow(values: Reals) -> Reals:
        steps = np.floor(np.ldexp(values, fraction) + 0.5)
        result: Reals = np.ldexp(np.minimum(steps, (1 << fraction) - 1), -fraction)
        return result

    return narrow


def table_sigmoid(segments: int) -> Callable[[Reals], Reals]:
    """Linear interpolation between entries of OUTPUT_FRACTION bits over 0 .. SIGMOID_SPAN."""
    ends = np.linspace(0.0, SIGMOID_SPAN, segments + 1)
    entries = np.ldexp(np.rint(np.ldexp(exact_sigmoid(ends), OUTPUT_FRACTION)), -OUTPUT_FRACTION)

    def look_up(z: Reals) -> Reals:
        value = np.interp(np.abs(z), ends, entries)
        result: Reals = np.where(z < 0, 1 - value, value)
        return result

    return look_up


def embedding(image: Image, bits: int) -> NDArray[np.float32]:
    """The embedding as a device with so many bits a value gives it (with the residual's last bit to spare)."""
    rows = image.embedding_rows().astype(np.float64)
    fraction = ELEMENT_BITS - 1 - MARGIN_BITS - _exponent(float(np.abs(rows).max()))
    values, scales = quantise_rows(np.ldexp(rows, fraction), bits)
    wide, _ = embed(values.astype(np.int64) << ACTIVATION_BITS - bits, scales[:, None])
    return np.ldexp(wide.astype(np.float64), -fraction).astype(np.float32)


def choices(image: Image, seed: int = 0) -> Iterator[Choice]:
    """All that is studied; formats that the device has are marked `*`."""
    calibration = image.require_calibration()
    rng = np.random.default_rng(seed)

    def reference(**formats: Any) -> FloatReference:
        return FloatReference(image, formats=Formats(**formats))

    def by_layer(make: Callable[[float], Callable[[Reals], Reals]]) -> FloatReference:
        kept = [make(peak) for peak in calibration.candidate]
        return reference(state=lambda layer, h: kept[layer](h))

    for power in NOISES:
        yield Choice("none", f"noise of 2^{power} on the residual", reference(residual=partial(_noise, power, rng)))
    yield Choice("state", f"{COMPACT_BITS} bits, compact *", by_layer(compact_state))
    for truncated in (False, True):
        for bits in (16, 12, 10, 8):
            kept = by_layer(partial(calibrated, bits, truncated=truncated))
            yield Choice("state", f"{bits} bits{', truncated' if truncated else ''}", kept)
    for fraction in (OUTPUT_FRACTION, 12, 10, 8, 6):
        yield Choice(
            "forget gate", f"{fraction} bits{_built(fraction, OUTPUT_FRACTION)}", reference(forget=gate(fraction))
        )
    for segments in (SEGMENTS, 64, 32, 16, 8):
        model = reference(sigmoid=table_sigmoid(segments))
        yield Choice("sigmoid table", f"{segments} segments{_built(segments, SEGMENTS)}", model)
    for bits in (ELEMENT_BITS, 18, 16, 14, 12, 10):
        model = reference(residual=calibrated(bits, calibration.residual))
        yield Choice("residual", f"{bits} bits{_built(bits, ELEMENT_BITS)}", model)
    for bits in (ACTIVATION_BITS, 6, 5, 4):
        model = FloatReference(image, embedding=embedding(image, bits))
        yield Choice("embedding", f"{bits} bits{_built(bits, ACTIVATION_BITS)}", model)
    yield Choice("all", "golden model *", Machine(compile_image(image, Geometry(**ROOMY_SIZES))))


def measure(image: Image, tokens: Tokens, *, context: int = CONTEXT) -> Iterator[tuple[str, str, Cost]]:
    """Part, format and cost of every choice on a text."""
    read = windows(tokens, streams=STREAMS, context=context)
    exact = evaluate(FloatReference(image), read, len(tokens))
    for part, name, model in choices(image):
        score = evaluate(model, read, len(tokens))
        yield part, name, Cost(score.nats / exact.nats - 1, float((score.choices != exact.choices).mean()))


def own_text(image: Image, count: int, seed: int = 0) -> Tokens:
    """A text that the model writes, drawn at temperature 1."""
    first = np.random.default_rng(seed).integers(image.config.vocabulary, size=STREAMS)
    return FloatReference(image).write(first, -(-count // STREAMS), np.random.default_rng(seed)).reshape(-1)[:count]


def table(costs: dict[str, list[tuple[str, str, Cost]]]) -> list[str]:
    """The lines of a table in Markdown, two columns for each model."""
    heads = [f"{name}: bits | choices differ" for name in costs]
    lines = [f"| part | format | {' | '.join(heads)} |", f"| --- | --- |{' --: |' * (2 * len(costs))}"]
    for rows in zip(*costs.values(), strict=True):
        cells = " | ".join(f"{cost.bits:+.3%} | {cost.choices:.1%}" for *_, cost in rows)
        lines.append(f"| {rows[0][0]} | {rows[0][1]} | {cells} |")
    return lines


def _noise(power: int, rng: np.random.Generator, x: Reals) -> Reals:
    """x with relative noise."""
    result: Reals = x * (1 + 2.0**power * rng.standard_normal(x.shape))
    return result


def _exponent(peak: float) -> int:
    """The smallest e with peak <= 2**e."""
    return math.ceil(math.log2(peak)) if peak > 0 else 0


def _built(value: int, built: int) -> str:
    return " *" if value == built else ""


def main() -> None:
    """Study a model, and random ones with outliers."""
    parser = argparse.ArgumentParser(description="What each number format costs, in bits per byte and greedy choices.")
    parser.add_argument("--image", type=Path, metavar="FILE", help="default: the model that ships")
    parser.add_argument("--text", type=Path, metavar="FILE", help="default: what the model writes itself")
    parser.add_argument("--tokens", type=int, default=TOKENS, metavar="N", help="of each text (default: %(default)s)")
    parser.add_argument("--random", type=int, default=2, metavar="N", help="random models (default: %(default)s)")
    args = parser.parse_args()
    if args.tokens < 2 * STREAMS:
        parser.error(f"--tokens must be at least {2 * STREAMS}, not {args.tokens}")
    try:
        image = Image.default() if args.image is None else Image.load(args.image)
        if args.text is None:
            tokens = own_text(image, args.tokens)
        else:
            tokens = read_tokens(image.tokenizer, image.config.name, args.text, limit=args.tokens).tokens
        costs = {image.config.name: list(measure(image, tokens))}
    except TernlightError as error:
        parser.error(str(error))
    for seed in range(args.random):
        outliers = random_image(random_config(**RANDOM_SHAPE), seed)
        costs[f"outliers {seed + 1}"] = list(measure(outliers, own_text(outliers, args.tokens)))
    print("\n".join(table(costs)))


if __name__ == "__main__":
    main()
