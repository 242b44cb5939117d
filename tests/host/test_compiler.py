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
from ternlight.isa import ControlOp, EngineOp, ScalarOp, Unit, VectorOp
from ternlight_sim.random_model import random_config, random_image

ROOMY = Geometry(
    inputs=8,
    rows=8,
    vector=4,
    store_words=1 << 16,
    gain_words=1 << 13,
    vector_words=1 << 10,
    state_words=1 << 11,
    program_words=1 << 10,
    activations=1 << 10,
    accumulator=24,
)
GEOMETRIES = {
    "4": ROOMY,
    "2": replace(ROOMY, inputs=4, rows=2, vector=2, block=3, slots=1),
    "16": replace(ROOMY, inputs=32, rows=16, vector=16, block=5),
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
    assert words.shape == (len(compiled.program), 3)
    for fields, (low, middle, high) in zip(compiled.program, words.tolist(), strict=True):
        assert isa.decode(low | middle << 32 | high << 64) == fields


def scalar_reads(fields) -> list[int]:
    unit, op = fields["unit"], fields["op"]
    if unit == Unit.VECTOR:
        return [fields["scale"]] if op in isa.READS_SCALE else []
    if unit == Unit.SCALAR:
        return [fields["a"], *([fields["b"]] if op in isa.READS_B and not fields["immediate"] else [])]
    return [fields["scale"]] if (unit, op) == (Unit.CONTROL, ControlOp.SAMPLE) else []


def scalar_writes(fields) -> list[int]:
    op = fields["op"]
    if fields["unit"] == Unit.VECTOR:
        kinds = {"peak": isa.WRITES_PEAK, "energy": isa.WRITES_ENERGY, "power": isa.WRITES_POWER}
        return [fields[name] for name, ops in kinds.items() if op in ops]
    return [fields["target"]] if fields["unit"] == Unit.SCALAR else []


def test_scalars_are_written_before_they_are_read(compiled):
    """Within a token, but for the temperature; no operation writes one register twice."""
    written = {isa.TEMPERATURE_REGISTER}
    for fields in compiled.program:
        assert set(scalar_reads(fields)) <= written, fields
        targets = scalar_writes(fields)
        assert len(set(targets)) == len(targets), fields
        assert isa.TEMPERATURE_REGISTER not in targets
        written.update(targets)


def test_no_scalar_is_computed_in_vain(compiled):
    """Every result of the scalar unit is read before it is written again."""
    unread: set[int] = set()
    for fields in compiled.program:
        unread -= set(scalar_reads(fields))
        targets = set(scalar_writes(fields))
        assert not targets & unread, fields
        if fields["unit"] == Unit.SCALAR:
            unread |= targets
    assert not unread


def test_activation_buffers(compiled):
    """QUANT claims a free buffer and MATVEC frees it with as many chunks; both buffers take turns at that."""
    claimed: dict[int, int] = {}
    width = compiled.geometry.vector
    for fields in compiled.program:
        operation = fields["unit"], fields["op"]
        if operation == (Unit.VECTOR, VectorOp.QUANT):
            assert fields["buffer"] not in claimed
            claimed[fields["buffer"]] = fields["beats"] * width
        elif operation == (Unit.ENGINE, EngineOp.MATVEC):
            values = claimed.pop(fields["buffer"])
            assert fields["chunks"] == ceil_div(values, compiled.geometry.inputs)
            assert values <= compiled.geometry.activations
    assert not claimed


def test_results_are_consumed_as_produced(compiled):
    """Operations that read results, in order, take exactly the beats that the engine's operations give."""
    waiting: list[int] = []
    for fields in compiled.program:
        unit, op = fields["unit"], fields["op"]
        if unit == Unit.ENGINE:
            waiting.append(fields["beats"])
        elif (unit == Unit.VECTOR and op in isa.READS_RESULTS) or (unit, op) == (Unit.CONTROL, ControlOp.SAMPLE):
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
            rows = compiled.vocabulary if fields["op"] == EngineOp.EMBED else fields["groups"]
            regions.append((fields["address"], fields["chunks"] * rows))
    return regions


def test_store_regions_fill_the_store(compiled):
    """In the order of use, so that weights stream, without gaps, each read once."""
    address = 0
    for first, words in store_regions(compiled):
        assert first == address
        address += words
    assert address == len(compiled.store) <= compiled.geometry.store_words
    assert compiled.store.shape[1] == compiled.geometry.store_columns


def test_vector_operations_stay_inside_the_memories(compiled, image):
    geometry, hidden = compiled.geometry, ceil_div(image.config.hidden, compiled.geometry.vector)
    states, gains = [], []
    for fields in compiled.program:
        if fields["unit"] != Unit.VECTOR:
            continue
        op, beats = fields["op"], fields["beats"]
        outputs = {VectorOp.EMBED: beats - 1, VectorOp.MLP: beats // 2}.get(op, beats)
        assert fields["source"] + beats <= geometry.vector_words or op in (VectorOp.EMBED, VectorOp.MLP)
        assert fields["target"] + outputs <= geometry.vector_words
        if op in (VectorOp.STAT, VectorOp.GAIN, VectorOp.FORGET, VectorOp.MLP):
            gains.append((fields["gain"], outputs))
        if op in (VectorOp.STATE, VectorOp.GATE):
            states.append(fields["state"])
            assert beats == hidden
    assert max(first + words for first, words in gains) == len(compiled.gains) <= geometry.gain_words
    # Each layer's state is written, then read, in its own region.
    assert states == [layer * hidden for layer in range(image.config.layers) for _ in range(2)]
    assert compiled.state_stride == image.config.layers * hidden
    assert compiled.state_stride * geometry.slots <= geometry.state_words


def test_vectors_are_written_before_they_are_read(compiled):
    """And no vector is overwritten while an operation still needs it: each read sees the vector that was meant for it.

    The lengths of reads and writes agree: what a region was last written with is what is read from there.
    """
    written: dict[int, int] = {}  # beats by first word
    for fields in compiled.program:
        if fields["unit"] != Unit.VECTOR:
            continue
        op, beats = fields["op"], fields["beats"]
        if op in (VectorOp.STAT, VectorOp.GAIN, VectorOp.QUANT, VectorOp.STATE, VectorOp.RESID):
            assert written.get(fields["source"]) == beats, fields
        if op not in (VectorOp.STAT, VectorOp.QUANT, VectorOp.STATE):
            first, length = fields["target"], {VectorOp.EMBED: beats - 1, VectorOp.MLP: beats // 2}.get(op, beats)
            for other in [other for other, size in written.items() if other < first + length and first < other + size]:
                del written[other]
            written[first] = length


def test_fences_where_memory_is_read_through_another_port(compiled):
    """STATE and GATE read what operations right before them may still be writing."""
    for fields in compiled.program:
        if fields["unit"] == Unit.VECTOR and fields["op"] in (VectorOp.STATE, VectorOp.GATE):
            assert fields["fence"]


def test_weights_are_counted_without_padding(compiled, image):
    assert compiled.macs == sum(trits.size for trits in image.trits.values())
    assert compiled.head_macs == image.trits["head"].size
    assert compiled.vocabulary == image.config.vocabulary


def test_identity_is_of_everything_that_is_loaded(image):
    compiled = compile_image(image, ROOMY)
    assert compile_image(image, ROOMY).identity == compiled.identity != 0
    gains, store, program = compiled.gains.copy(), compiled.store.copy(), list(compiled.program)
    gains[-1, -1] ^= 1
    store[0, 0] ^= 1
    program[3] = {**program[3], "fence": 1 - program[3]["fence"]}
    others = [replace(compiled, **change) for change in ({"gains": gains}, {"store": store}, {"program": program})]
    assert len({model.identity for model in (compiled, *others)}) == 4


# Formats.


def test_gains_use_their_bits():
    """The largest of a vector of gains lies in the upper half of the range, whatever its scale."""
    image = shaped(SHAPES[2])
    for scale in (1e-6, 1.0, 1e6):
        scaled = replace(image, norms={key: (gains * scale).astype(np.float32) for key, gains in image.norms.items()})
        compiled = compile_image(scaled, ROOMY)
        for fields in compiled.program:
            if fields["unit"] == Unit.VECTOR and fields["op"] in (VectorOp.STAT, VectorOp.GAIN):
                codes = compiled.gains[fields["gain"] : fields["gain"] + fields["beats"]]
                assert VALUE_MAX // 2 <= np.abs(decode(codes)).max() <= VALUE_MAX


def test_a_vector_of_zero_gains_is_compiled():
    image = shaped(SHAPES[1])
    norms = {key: np.zeros_like(gains) for key, gains in image.norms.items()}
    assert not compile_image(replace(image, norms=norms), ROOMY).gains[:2].any()


def test_lower_bounds_are_u0_15():
    image = shaped(SHAPES[2])
    compiled = compile_image(image, ROOMY)
    forgets = [fields for fields in compiled.program if (fields["unit"], fields["op"]) == (1, VectorOp.FORGET)]
    for fields, bounds in zip(forgets, image.lower_bounds, strict=True):
        stored = compiled.gains[fields["gain"] : fields["gain"] + fields["beats"]].reshape(-1)[: len(bounds)]
        np.testing.assert_array_equal(stored, np.minimum(np.rint(bounds.astype(np.float64) * (1 << 15)), (1 << 15) - 1))


def test_the_residual_keeps_its_headroom():
    """Calibrated values fit four times over; more head room than eight times would cost precision."""
    image = shaped(SHAPES[2])
    for scale in (1e-2, 1.0, 1e2):
        calibration = replace(image.calibration, residual=image.calibration.residual * scale)
        rows = float(np.abs(image.embedding_rows()).max())
        compiled = compile_image(replace(image, calibration=calibration), ROOMY)
        residuals = [fields for fields in compiled.program if (fields["unit"], fields["op"]) == (1, VectorOp.RESID)]
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
        "vector_words": ("vector memory", 10 + 14 + 10 + 10),
        "state_words": (f"state memory of {ROOMY.slots} slots", compiled.state_stride * ROOMY.slots),
        "program_words": ("program", len(compiled.program)),
        "gain_words": ("gain memory", len(compiled.gains)),
        "store_words": ("weight store", len(compiled.store)),
    }
    tight = replace(ROOMY, **{field: needed for field, (_, needed) in exact.items()})
    np.testing.assert_array_equal(compile_image(image, tight).store, compiled.store)
    for field, (what, needed) in exact.items():
        short = replace(tight, **{field: needed - 1})
        assert refused(image, short) == needs(what, needed, needed - 1, field)


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
    image = shaped({"hidden": 1, "intermediate": 2100, "layers": 1, "vocabulary": 2})
    wide = replace(GEOMETRIES["2"], activations=1 << 12, vector_words=1 << 12)
    assert refused(image, wide).startswith("random is too large for the instruction set: ")


def test_an_image_without_calibration():
    with pytest.raises(ImageError, match=r"^random is not calibrated: make the image with `ternlight import`$"):
        compile_image(replace(shaped(SHAPES[1]), calibration=None), ROOMY)


def test_registers_are_distinct():
    assert len(set(Reg)) == len(Reg) <= isa.SCALAR_REGISTERS
    assert {op for op in ScalarOp if op in isa.READS_B} == {ScalarOp.ADD, ScalarOp.MUL, ScalarOp.LOWER}
