"""Programs that a device can run: well formed for any shape and geometry, or refused with the limit and the remedy."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from ternlight import isa
from ternlight.assembler import Reg
from ternlight.compact import VALUE_MAX, decode
from ternlight.compiler import compile_image
from ternlight.config import ModelConfig
from ternlight.errors import FitError, ImageError
from ternlight.formats import ELEMENT_BITS
from ternlight.geometry import Geometry, ceil_div
from ternlight.image import Image
from ternlight.isa import ControlOp, EngineOp, GateOp, NormOp, ScalarOp, Unit
from ternlight_sim.random_model import random_config, random_image

ROOMY = Geometry(
    inputs=8,
    rows=8,
    vector=4,
    store_words=1 << 16,
    gain_words=1 << 13,
    residual_words=1 << 10,
    gated_words=1 << 10,
    state_words=1 << 12,
    program_words=1 << 10,
    activations=1 << 10,
    accumulator=24,
)
GEOMETRIES = {
    "4": ROOMY,
    "tiny": replace(ROOMY, inputs=4, rows=4, embedding_bits=4, slots=1, contexts=1),
    "12": replace(ROOMY, inputs=24, rows=12, vector=12, embedding_bits=5, activations=1008, contexts=4),
    "16": replace(ROOMY, inputs=32, rows=16, vector=16),
}
SHAPES = [
    {"hidden": 1, "intermediate": 1, "layers": 1, "vocabulary": 1},
    {"hidden": 5, "intermediate": 3, "layers": 1, "vocabulary": 5},
    {"hidden": 37, "intermediate": 53, "layers": 2, "vocabulary": 61},
    {"hidden": 16, "intermediate": 64, "layers": 7, "vocabulary": 128},
    {"hidden": 90, "intermediate": 8, "layers": 3, "vocabulary": 300},
]


def shaped(shape: dict[str, int], seed: int = 1) -> Image:
    return random_image(random_config(**shape), seed)


@pytest.fixture(scope="module", params=SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
def image(request) -> Image:
    return shaped(request.param)


@pytest.fixture(scope="module", params=GEOMETRIES.values(), ids=GEOMETRIES)
def compiled(request, image):
    return compile_image(image, request.param)


# Programs of any shape.


def test_programs_end_once(compiled):
    """HEAD once, before SAMPLE; END once, at the end."""
    control = [fields["op"] for fields in compiled.program if fields["unit"] == Unit.CONTROL]
    assert control == [ControlOp.HEAD, ControlOp.SAMPLE, ControlOp.END]
    assert compiled.program[-1]["op"] == ControlOp.END
    words = compiled.program_words()
    assert words.shape == (len(compiled.program), isa.INSTRUCTION_COLUMNS)
    for fields, columns in zip(compiled.program, words.tolist(), strict=True):
        assert isa.decode(sum(column << 32 * place for place, column in enumerate(columns))) == fields


def scalar_reads(fields) -> list[int]:
    unit, op = fields["unit"], fields["op"]
    if unit == Unit.SCALAR:
        return [fields["a"], *([fields["b"]] if op in isa.READS_B and not fields["immediate"] else [])]
    return [fields["scale"]] if op in isa.READS_SCALE.get(unit, ()) else []


def scalar_writes(fields) -> list[int]:
    unit, op = fields["unit"], fields["op"]
    if unit == Unit.SCALAR:
        return [fields["target"]]
    return [fields["reduction"]] if op in isa.REDUCES.get(unit, ()) else []


def test_scalars_are_written_before_they_are_read(compiled):
    """Within a token, but for the temperature, which stays."""
    written = {isa.TEMPERATURE_REGISTER}
    for fields in compiled.program:
        assert set(scalar_reads(fields)) <= written, fields
        targets = scalar_writes(fields)
        assert isa.TEMPERATURE_REGISTER not in targets
        written.update(targets)


def test_no_scalar_is_computed_in_vain(compiled):
    """Every result of the scalar unit, and every reduction of a gained vector, is read before it is written again."""
    unread: set[int] = set()
    for fields in compiled.program:
        unread -= set(scalar_reads(fields))
        targets = set(scalar_writes(fields))
        assert not targets & unread, fields
        if (fields["unit"], fields["op"]) not in ((Unit.NORM, NormOp.EMBED), (Unit.NORM, NormOp.RESID)):
            unread |= targets
    assert not unread


def test_activation_buffers(compiled):
    """QUANT claims a free buffer and MATVEC frees it with as many chunks; both buffers take turns at that.

    A product may wait for room for its results: its buffer is claimed again only behind their consumer.
    """
    claimed: dict[int, int] = {}
    running: list[int | None] = []  # buffers of the engine's commands whose results nobody takes yet
    width = compiled.geometry.vector
    for fields in compiled.program:
        operation = fields["unit"], fields["op"]
        if operation == (Unit.NORM, NormOp.QUANT):
            assert fields["buffer"] not in claimed
            assert fields["buffer"] not in running
            claimed[fields["buffer"]] = fields["beats"] * width
        elif operation == (Unit.ENGINE, EngineOp.MATVEC):
            values = claimed.pop(fields["buffer"])
            assert fields["chunks"] == ceil_div(values, compiled.geometry.inputs)
            assert values <= compiled.geometry.activations
            running.append(fields["buffer"])
        elif operation == (Unit.ENGINE, EngineOp.EMBED):
            running.append(None)
        elif fields["op"] in isa.READS_RESULTS.get(fields["unit"], ()):
            running.pop(0)
    assert not claimed
    assert not running


def test_results_are_consumed_as_produced(compiled):
    """Operations that read results, in order, take exactly the beats that the engine's operations give."""
    waiting: list[int] = []
    for fields in compiled.program:
        unit, op = fields["unit"], fields["op"]
        if unit == Unit.ENGINE:
            waiting.append(fields["chunks"] if op == EngineOp.EMBED else fields["beats"])
        elif op in isa.READS_RESULTS.get(unit, ()):
            assert waiting.pop(0) == fields["beats"], fields
    assert not waiting


def test_products_fill_their_beats(compiled):
    """A product's rows cover its result beats, with less than one group of padding."""
    geometry = compiled.geometry
    for fields in compiled.program:
        if (fields["unit"], fields["op"]) == (Unit.ENGINE, EngineOp.MATVEC):
            assert fields["groups"] == ceil_div(fields["beats"] * geometry.vector, geometry.rows)


def store_regions(compiled) -> list[tuple[int, int]]:
    regions = []
    for fields in compiled.program:
        if fields["unit"] == Unit.ENGINE:
            if fields["op"] == EngineOp.EMBED:
                assert fields["groups"] == ceil_div(compiled.vocabulary, compiled.geometry.cells)
            regions.append((fields["address"], fields["chunks"] * fields["groups"]))
    return regions


def test_store_regions_fill_the_store(compiled):
    """In the order of use, so that weights stream, without gaps, each read once."""
    address = 0
    for first, words in store_regions(compiled):
        assert first == address
        address += words
    assert address == len(compiled.store) <= compiled.geometry.store_words
    assert compiled.store.shape[1] == compiled.geometry.store_columns


def norms(compiled) -> list:
    return [fields for fields in compiled.program if fields["unit"] == Unit.NORM]


def gates(compiled) -> list:
    return [fields for fields in compiled.program if fields["unit"] == Unit.GATE]


GAINED = {NormOp.PEAK, NormOp.STAT, NormOp.QUANT}
"""Operations of the norm unit that multiply by gains."""


def test_norm_operations_stay_inside_the_memories(compiled, image):
    geometry, config = compiled.geometry, image.config
    hidden, gated = (ceil_div(size, geometry.vector) for size in (config.hidden, config.intermediate))
    gains = []
    for fields in norms(compiled):
        words = geometry.gated_words if fields["gated"] else geometry.residual_words
        assert fields["source"] + fields["beats"] <= words
        assert fields["beats"] in ({hidden, gated} if fields["gated"] else {hidden})
        if fields["op"] in GAINED:
            gains.append((fields["gain"], fields["beats"]))
        else:
            assert not fields["gated"]
    assert max(first + words for first, words in gains) == len(compiled.gains) <= geometry.gain_words


def test_gate_operations_stay_inside_the_memories(compiled, image):
    """States of a layer are written, then read, in its own region; the lower bounds of all layers follow all slots."""
    geometry, layers = compiled.geometry, image.config.layers
    hidden, inner = ceil_div(image.config.hidden, geometry.vector), ceil_div(image.config.intermediate, geometry.half)
    places: dict[GateOp, list[int]] = {op: [] for op in GateOp}
    for fields in gates(compiled):
        op = fields["op"]
        places[op].append(fields["state"])
        assert fields["beats"] == (inner if op == GateOp.MLP else hidden)
        written = {GateOp.GATE: hidden, GateOp.MLP: ceil_div(inner, 2)}.get(op, 0)
        assert fields["target"] + written <= geometry.gated_words
    regions = [layer * 2 * hidden for layer in range(layers)]
    assert places[GateOp.STATE] == places[GateOp.GATE] == regions
    assert compiled.state_stride == layers * 2 * hidden == len(compiled.lower_bounds)
    assert compiled.lower_bounds.shape[1] == geometry.half
    assert compiled.lower_bound_word == geometry.slots * compiled.state_stride
    assert places[GateOp.FORGET] == [compiled.lower_bound_word + region for region in regions]
    assert compiled.lower_bound_word + compiled.state_stride <= geometry.state_words


def test_vectors_are_written_before_they_are_read(compiled):
    """Each read sees, from its first word on, a vector of its own length; MLP may leave half a word above it.

    Chaining compares counts of beats: a reader that began elsewhere, or were longer, would wait for ever.
    """
    written: dict[str, tuple[int, int]] = {}
    for fields in compiled.program:
        unit, op, beats = fields["unit"], fields["op"], fields.get("beats", 0)
        if unit == Unit.NORM:
            memory = "gated" if fields["gated"] else "residual"
            if op != NormOp.EMBED:
                assert written[memory] == (fields["source"], beats), fields
            if op in (NormOp.EMBED, NormOp.RESID):
                written["residual"] = fields["source"], beats
        elif unit == Unit.GATE:
            match op:
                case GateOp.FORGET:
                    written["forget"] = 0, beats
                case GateOp.STATE:
                    assert written.pop("forget") == (0, beats)
                    written["state"] = fields["state"], beats
                case GateOp.GATE:
                    assert written.pop("state") == (fields["state"], beats)
                    written["gated"] = fields["target"], beats
                case GateOp.MLP:
                    written["gated"] = fields["target"], ceil_div(beats, 2)
    assert "forget" not in written
    assert "state" not in written


def test_vectors_are_quantised_by_their_own_peak(compiled):
    """The scale of QUANT is QSCALE of a PEAK of the same source and gains, which nothing has changed since."""
    version = {0: 0, 1: 0}  # of the residual, and of the gated memory
    origin: dict[int, tuple | None] = {}
    quantised = 0
    for fields in compiled.program:
        unit, op = fields["unit"], fields["op"]
        vector = None
        if unit == Unit.NORM and op in GAINED:
            place = (fields["source"], fields["gain"], fields["beats"])
            vector = (fields["gated"], version[fields["gated"]], *place)
        if (unit, op) == (Unit.NORM, NormOp.QUANT):
            assert origin[fields["scale"]] == ("scale", vector)
            quantised += 1
        known = None
        if (unit, op) == (Unit.NORM, NormOp.PEAK):
            known = ("peak", vector)
        elif (unit, op) == (Unit.SCALAR, ScalarOp.QSCALE):
            kind, vector = origin[fields["a"]] or ("", None)
            assert kind == "peak"
            known = ("scale", vector)
        origin |= dict.fromkeys(scalar_writes(fields), known)
        version[0] += unit == Unit.NORM and op in (NormOp.EMBED, NormOp.RESID)
        version[1] += unit == Unit.GATE and op in (GateOp.GATE, GateOp.MLP)
    products = [
        fields for fields in compiled.program if (fields["unit"], fields["op"]) == (Unit.ENGINE, EngineOp.MATVEC)
    ]
    assert quantised == len(products)


def test_weights_are_counted_without_padding(compiled, image):
    assert compiled.macs == sum(trits.size for trits in image.trits.values())
    assert compiled.head_macs == image.trits["head"].size
    assert compiled.vocabulary == image.config.vocabulary


def test_identity_is_of_everything_that_is_loaded(image):
    compiled = compile_image(image, ROOMY)
    assert compile_image(image, ROOMY).identity == compiled.identity != 0
    words = {name: getattr(compiled, name).copy() for name in ("gains", "lower_bounds", "store")}
    for array in words.values():
        array[-1, -1] ^= 1
    program = list(compiled.program)
    program[3] = {**program[3], "gain": program[3]["gain"] ^ 1}
    changes = {**words, "program": program, "vocabulary": 2, "state_stride": 1, "geometry": replace(ROOMY, slots=2)}
    others = [replace(compiled, **{name: value}) for name, value in changes.items()]
    assert len({model.identity for model in (compiled, *others)}) == 1 + len(changes)


# Formats.


def test_gains_use_their_bits():
    """The largest of a vector of gains lies in the upper half of the range, whatever its scale."""
    image = shaped(SHAPES[2])
    for scale in (1e-6, 1.0, 1e6):
        scaled = replace(image, norms={key: (gains * scale).astype(np.float32) for key, gains in image.norms.items()})
        compiled = compile_image(scaled, ROOMY)
        for fields in norms(compiled):
            if fields["op"] in GAINED:
                codes = compiled.gains[fields["gain"] : fields["gain"] + fields["beats"]]
                assert VALUE_MAX // 2 <= np.abs(decode(codes)).max() <= VALUE_MAX


def test_a_vector_of_zero_gains_is_compiled():
    image = shaped(SHAPES[1])
    norms = {key: np.zeros_like(gains) for key, gains in image.norms.items()}
    assert not compile_image(replace(image, norms=norms), ROOMY).gains[:2].any()


def test_lower_bounds_are_u0_15():
    """Each where its FORGET reads it, and zero beyond."""
    image = shaped(SHAPES[2])
    for geometry in GEOMETRIES.values():
        compiled = compile_image(image, geometry)
        forgets = [fields for fields in gates(compiled) if fields["op"] == GateOp.FORGET]
        assert compiled.lower_bounds.any()
        for fields, bounds in zip(forgets, image.lower_bounds, strict=True):
            first = fields["state"] - compiled.lower_bound_word
            stored = compiled.lower_bounds[first : first + 2 * fields["beats"]].reshape(-1)
            wanted = np.minimum(np.rint(bounds.astype(np.float64) * (1 << 15)), (1 << 15) - 1)
            np.testing.assert_array_equal(stored[: len(bounds)], wanted)
            assert not stored[len(bounds) :].any()


def test_lower_bounds_saturate():
    image = shaped(SHAPES[1])
    bounds = np.array([[1.0, 0.99999, -1.0, -3.0, 0.5]], np.float32)
    stored = compile_image(replace(image, lower_bounds=bounds), ROOMY).lower_bounds.reshape(-1)
    assert stored[:5].tolist() == [32767, 32767, -32767, -32767, 16384]


def test_the_residual_keeps_its_headroom():
    """Calibrated values fit four times over; more head room than eight times would cost precision."""
    image = shaped(SHAPES[2])
    for scale in (1e-2, 1.0, 1e2):
        calibration = replace(image.calibration, residual=image.calibration.residual * scale)
        rows = float(np.abs(image.embedding_rows()).max())
        compiled = compile_image(replace(image, calibration=calibration), ROOMY)
        residuals = [fields for fields in norms(compiled) if fields["op"] == NormOp.RESID]
        (fraction,) = {fields["fraction"] for fields in residuals}
        peak = math.ldexp(max(calibration.residual, rows), fraction)
        assert 1 << ELEMENT_BITS - 4 < peak <= 1 << ELEMENT_BITS - 3


# What is refused.


def refused(image: Image, geometry: Geometry) -> str:
    with pytest.raises(FitError) as error:
        compile_image(image, geometry)
    return str(error.value)


def needs(what: str, needed: int, limit: int, field: str) -> str:
    return (
        f"random needs {needed} words of {what}, but the device has {limit}: "
        f"rebuild it with {field}={needed}, or choose a smaller model"
    )


def test_a_device_that_is_just_large_enough():
    """Every memory at its exact size is enough, and one word less is refused with that size as the remedy."""
    image = shaped(SHAPES[2])
    compiled = compile_image(image, ROOMY)
    exact = {
        "residual_words": ("residual memory", 10),
        "gated_words": ("gated memory", 14),
        "state_words": (
            f"state memory of {ROOMY.slots} slots and the lower bounds",
            compiled.state_stride * ROOMY.slots + len(compiled.lower_bounds),
        ),
        "program_words": ("program", len(compiled.program)),
        "gain_words": ("gain memory", len(compiled.gains)),
        "store_words": ("weight store", len(compiled.store)),
    }
    tight = replace(ROOMY, **{field: needed for field, (_, needed) in exact.items()})
    np.testing.assert_array_equal(compile_image(image, tight).store, compiled.store)
    for field, (what, needed) in exact.items():
        short = replace(tight, **{field: needed - 1})
        assert refused(image, short) == needs(what, needed, needed - 1, field)


def test_the_gated_memory_holds_both_vectors():
    """Of the attention, as wide as the model, and of the MLP."""
    for shape, words in ((SHAPES[4], 23), (SHAPES[3], 16)):
        image = shaped(shape)
        compile_image(image, replace(ROOMY, gated_words=words))
        short = replace(ROOMY, gated_words=words - 1)
        assert refused(image, short) == needs("gated memory", words, words - 1, "gated_words")


def test_accumulators_that_are_too_narrow():
    image = shaped(SHAPES[4])
    assert refused(image, replace(ROOMY, accumulator=14)) == (
        "sums of 90 products need 15 bits, but the device accumulates 14: rebuild it with accumulator=15"
    )
    compile_image(image, replace(ROOMY, accumulator=15))


def test_activation_buffers_that_are_too_short():
    message = refused(shaped(SHAPES[3]), replace(ROOMY, activations=56))
    assert re.match(r"a product needs from 1 to 56 inputs \(the activation buffer\), not 64", message)


def test_a_vocabulary_beyond_16_bits():
    config = ModelConfig(name="random", hidden=1, intermediate=1, layers=1, vocabulary=65_537)
    image = random_image(config, 0)
    assert refused(image, ROOMY) == "the vocabulary has 65537 tokens, but token ids have 16 bits: train with fewer"


def test_a_model_beyond_the_instruction_set():
    """Vectors longer than an instruction can say are refused, whatever the device."""
    image = shaped({"hidden": 1, "intermediate": 4097, "layers": 1, "vocabulary": 2})
    wide = replace(ROOMY, activations=1 << 13, gated_words=1 << 12)
    assert refused(image, wide) == (
        "random is too large for the instruction set: GATE MLP: beats must be from 0 to 2047, not 2049"
    )


def test_an_embedding_beyond_the_instruction_set():
    """A word of few cells cannot hold the rows of many tokens in the reach of an instruction."""
    image = shaped({"hidden": 1, "intermediate": 1, "layers": 1, "vocabulary": 16_385})
    tiny = GEOMETRIES["tiny"]
    assert tiny.cells == 1
    assert refused(image, tiny) == (
        "random is too large for the instruction set: ENGINE EMBED: groups must be from 0 to 16383, not 16385"
    )
    assert ROOMY.cells > 1
    compile_image(image, ROOMY)


def test_an_image_without_calibration():
    with pytest.raises(ImageError, match=r"^random is not calibrated: make the image with `ternlight import`$"):
        compile_image(replace(shaped(SHAPES[1]), calibration=None), ROOMY)


def test_registers_are_distinct():
    assert len(set(Reg)) == len(Reg) <= isa.SCALAR_REGISTERS
    assert {op for op in ScalarOp if op in isa.READS_B} == {ScalarOp.ADD, ScalarOp.MUL}
