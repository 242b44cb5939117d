"""Images: what is saved comes back bit by bit, and any damage is refused."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from ternlight import base3
from ternlight.errors import ImageError
from ternlight.image import EMBEDDING_SPREAD, EXPONENT_LIMIT, Image, quantise_embedding
from ternlight.tensorfile import TensorFile, write_tensors
from ternlight_sim.random_model import byte_tokenizer, random_config, random_image

SHIPPED_BYTES_MAX = 1_000_000


@pytest.fixture(scope="module")
def image() -> Image:
    return random_image(random_config(vocabulary=300), 1, tokenizer=byte_tokenizer())


def assert_equal(left: Image, right: Image) -> None:
    """Every field is the same, types of arrays included."""
    for field in fields(Image):
        one, other = getattr(left, field.name), getattr(right, field.name)
        pairs = [(one[key], other[key]) for key in one] if isinstance(one, dict) else [(one, other)]
        if isinstance(one, dict):
            assert list(one) == list(other)
        for a, b in pairs:
            if isinstance(a, np.ndarray):
                assert a.dtype == b.dtype, field.name
                np.testing.assert_array_equal(a, b)
            else:
                assert a == b, field.name


@pytest.mark.parametrize("size", [0, 1, 4, 5, 6, 243 * 5])
def test_base3_round_trips(size):
    rng = np.random.default_rng(size)
    trits = rng.integers(-1, 2, size, dtype=np.int8)
    packed = base3.pack(trits)
    assert len(packed) == base3.packed_size(size) == -(-size // 5)
    np.testing.assert_array_equal(base3.unpack(packed, (size,)), trits)


def test_base3_is_little_endian_base_three():
    assert base3.pack(np.array([1, -1, 0, -1, 1, 0], np.int8)).tolist() == [2 + 9 + 2 * 81, 1 + 3 + 9 + 27 + 81]


def test_base3_covers_all_codes():
    packed = np.arange(243, dtype=np.uint8)
    np.testing.assert_array_equal(base3.pack(base3.unpack(packed, (243, 5))), packed)


@pytest.mark.parametrize(
    ("packed", "shape", "message"),
    [
        ([0, 0], (5,), "5 trits need 1 bytes, not 2"),
        ([0], (3, 2), "6 trits need 2 bytes, not 1"),
        ([243], (5,), "must be at most 242, not 243"),
    ],
)
def test_base3_refuses(packed, shape, message):
    with pytest.raises(ValueError, match=message):
        base3.unpack(np.array(packed, np.uint8), shape)


@pytest.mark.parametrize(
    "config",
    [
        random_config(),
        random_config(hidden=8, intermediate=1, layers=1, vocabulary=2, bos=None),
        random_config(layers=3, vocabulary=5, lower_bound=False, tied=True),
    ],
)
@pytest.mark.parametrize("calibrated", [True, False])
def test_save_and_load(tmp_path, config, calibrated):
    image = random_image(config, 2)
    if not calibrated:
        image = replace(image, calibration=None)
    image.save(tmp_path / "image")
    loaded = Image.load(tmp_path / "image")
    assert_equal(image, loaded)
    assert loaded.identity == image.identity
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "image").read_bytes()


def test_tokenizer_is_kept(tmp_path, image):
    image.save(tmp_path / "image")
    assert Image.load(tmp_path / "image").tokenizer == byte_tokenizer()


def test_identity_depends_on_everything(image):
    def flipped(arrays, key):
        array = arrays[key].copy()
        array.flat[0] = -1 if array.flat[0] != -1 else 0
        return arrays | {key: array}

    calibration = image.calibration
    variants = [
        image,
        replace(image, config=replace(image.config, name="other")),
        replace(image, config=replace(image.config, eps=1e-5)),
        replace(image, trits=flipped(image.trits, "layers.1.down")),
        replace(image, betas=image.betas | {"head": image.betas["head"] * 2}),
        replace(image, norms=flipped(image.norms, "layers.0.o")),
        replace(image, lower_bounds=image.lower_bounds + np.float32(0.25)),
        replace(image, embedding=image.embedding[::-1]),
        replace(image, embedding_exponent=image.embedding_exponent - np.int8(1)),
        replace(image, calibration=replace(calibration, residual=calibration.residual * 2)),
        replace(image, calibration=replace(calibration, mlp=calibration.mlp[::-1])),
        replace(image, calibration=None),
        replace(image, tokenizer=None),
    ]
    identities = [variant.identity for variant in variants]
    assert len(set(identities)) == len(variants)
    assert all(0 < identity < 1 << 32 for identity in identities)


def test_require_calibration(image):
    assert image.require_calibration() is image.calibration
    with pytest.raises(ImageError, match="random is not calibrated: make the image with `ternlight import`"):
        replace(image, calibration=None).require_calibration()


def test_any_flipped_bit_is_refused(tmp_path, image):
    path = tmp_path / "image"
    image.save(path)
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little") + 8
    rng = np.random.default_rng(3)
    positions = [*rng.integers(0, 8, 8), *rng.integers(8, header, 150), *rng.integers(header, len(whole), 50)]
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(ImageError):
            Image.load(path)


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_truncated_files_are_refused(tmp_path, image, kept):
    path = tmp_path / "image"
    image.save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ImageError, match=r"truncated|not a safetensors file"):
        Image.load(path)


def test_missing_other_and_newer_files_are_refused(tmp_path, image):
    path = tmp_path / "image"
    with pytest.raises(ImageError, match="image does not exist"):
        Image.load(path)
    image.save(path)
    stored = TensorFile(path, error=ImageError)
    tensors, metadata = dict(stored), stored.metadata
    write_tensors(path, tensors, metadata | {"version": "3"})
    with pytest.raises(ImageError, match="has image version 3, not 2: import the checkpoint again"):
        Image.load(path)
    write_tensors(path, tensors, metadata | {"sha256": "0" * 64})
    with pytest.raises(ImageError, match="its content does not match its hash"):
        Image.load(path)
    write_tensors(path, tensors)
    with pytest.raises(ImageError, match="is not a ternlight image: make one with `ternlight import`"):
        Image.load(path)


def test_save_refuses_a_folder_that_does_not_exist(tmp_path, image):
    with pytest.raises(ImageError, match="cannot be written: No such file"):
        image.save(tmp_path / "absent" / "image")


def test_quantised_embedding_is_within_half_a_step():
    rng = np.random.default_rng(4)
    rows = (rng.normal(size=(200, 33)) * 2.0 ** rng.uniform(-6, 6, (200, 1))).astype(np.float32)
    quantised, exponent = quantise_embedding(rows)
    error = np.abs(np.ldexp(quantised.astype(np.float64), -exponent[:, None].astype(int)) - rows)
    assert (error <= np.ldexp(0.5, -exponent.astype(int))[:, None]).all()
    # The largest exponent that fits: one more would overflow.
    peak = np.abs(quantised.astype(int)).max(axis=1)
    assert (peak >= 64).all()
    assert (peak <= 127).all()


@pytest.mark.parametrize(
    ("rows", "expected", "exponents"),
    [
        # 127.4 of 2**-7 fits, 127.6 rounds to 128 and does not; ties go to even.
        ([[127.4 / 128, 0.5 / 128, 1.5 / 128]], [[127, 0, 2]], [7]),
        ([[127.6 / 128, 0.0, 1.0 / 128]], [[64, 0, 0]], [6]),
        ([[1.0, 0, 0], [0, 0, 0]], [[64, 0, 0], [0, 0, 0]], [6, 6 + EMBEDDING_SPREAD]),
        ([[1.0, 0, 0], [2.0**-20, 0, 0]], [[64, 0, 0], [4, 0, 0]], [6, 6 + EMBEDDING_SPREAD]),
        ([[0.0, 0, 0]], [[0, 0, 0]], [EXPONENT_LIMIT]),
    ],
)
def test_quantised_embedding_corners(rows, expected, exponents):
    quantised, exponent = quantise_embedding(np.array(rows, np.float32))
    assert exponent.tolist() == exponents
    assert quantised.tolist() == expected


def test_embedding_rows():
    image = random_image(random_config(), 5)
    rows = image.embedding_rows()
    assert rows.dtype == np.float32
    assert rows[3, 5] == image.embedding[3, 5] * 2.0 ** -int(image.embedding_exponent[3])


def test_shipped_image(tmp_path):
    image = Image.default()
    assert (image.config.hidden, image.config.layers, image.config.vocabulary) == (160, 4, 1024)
    assert image.calibration is not None
    assert image.tokenizer is not None
    image.save(tmp_path / "image")
    assert (tmp_path / "image").stat().st_size < SHIPPED_BYTES_MAX
