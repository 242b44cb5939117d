"""The safetensors format: tensors read one at a time, with every length checked, and written in a fixed order.

The format is 8 bytes of header length (little-endian), a JSON header of {name: dtype, shape, data_offsets}, and the
data. The safetensors package knows no bfloat16 for numpy and loads a file as a whole; checkpoints need both.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import TernlightError

LENGTH_BYTES = 8
HEADER_MAX = 100_000_000
ALIGNMENT = 8
METADATA = "__metadata__"
BFLOAT16 = "BF16"
DTYPES: dict[str, str] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", BFLOAT16: "<u2", "I8": "|i1", "U8": "|u1"}
"""Formats that can be read and written; bfloat16 has no numpy type and travels as its bits."""
NAMES = {numpy: name for name, numpy in DTYPES.items() if name != BFLOAT16}


class Entry(NamedTuple):
    """Where a tensor lies in its file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


class TensorFile(Mapping[str, NDArray[Any]]):
    """A safetensors file as a mapping of lazily read arrays; bfloat16 is widened to float32, others stay as they are.

    Opening checks the header and the file's length; raises `error` for a file that is missing or broken.
    """

    def __init__(self, path: Path, *, error: type[TernlightError]) -> None:
        self.path = path
        self.error = error
        try:
            with path.open("rb") as file:
                length = os.fstat(file.fileno()).st_size
                header_length = int.from_bytes(file.read(LENGTH_BYTES), "little")
                self._base = LENGTH_BYTES + header_length
                if length < LENGTH_BYTES or header_length > HEADER_MAX:
                    raise error(f"{path} is not a safetensors file: download or make it again")
                if length < self._base:
                    raise error(
                        f"{path} is truncated ({length} of {self._base} bytes or more): download or make it again"
                    )
                header = json.loads(file.read(header_length))
            metadata = header.pop(METADATA, {})
            self.metadata: dict[str, str] = {str(key): str(value) for key, value in metadata.items()}
            self.entries = {name: self._entry(name, fields) for name, fields in header.items()}
        except FileNotFoundError:
            raise error(f"{path} does not exist") from None
        except OSError as problem:
            raise error(f"{path} cannot be read: {problem.strerror}") from None
        except (ValueError, AttributeError, KeyError, TypeError):
            raise error(f"{path} has a broken safetensors header: download or make it again") from None
        expected = max((entry.start + entry.size for entry in self.entries.values()), default=self._base)
        if length < expected:
            raise error(f"{path} is truncated ({length} of {expected} bytes): download or make it again")

    def _entry(self, name: str, fields: dict[str, Any]) -> Entry:
        dtype, shape, (start, end) = fields["dtype"], tuple(fields["shape"]), fields["data_offsets"]
        if dtype not in DTYPES:
            raise self.error(f"{self.path}: {name} has dtype {dtype}, not one of {', '.join(DTYPES)}")
        if not all(isinstance(size, int) and size >= 0 for size in (*shape, start, end)):
            raise ValueError
        size = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        if end - start != size:
            raise self.error(f"{self.path}: {name} has {end - start} bytes, but its shape {list(shape)} needs {size}")
        return Entry(dtype, shape, self._base + start, size)

    def __getitem__(self, name: str) -> NDArray[Any]:
        entry = self.entries[name]
        return self._read(entry.dtype, entry.shape, entry.start, entry.size)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        return self.entries[name].shape

    def rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Some rows of a tensor, as `self[name][start:stop]`, of which no others are read."""
        entry = self.entries[name]
        start, stop, _ = slice(start, stop).indices(entry.shape[0])
        row = entry.size // max(entry.shape[0], 1)
        shape = (stop - start, *entry.shape[1:])
        return self._read(entry.dtype, shape, entry.start + start * row, (stop - start) * row)

    def _read(self, dtype: str, shape: tuple[int, ...], start: int, size: int) -> NDArray[Any]:
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                data = file.read(size)
        except OSError as problem:
            raise self.error(f"{self.path} cannot be read: {problem.strerror}") from None
        if len(data) != size:
            raise self.error(f"{self.path} became shorter while it was read")
        array = np.frombuffer(data, DTYPES[dtype]).reshape(shape)
        # A bfloat16 is the upper half of a float32.
        return (array.astype("<u4") << 16).view("<f4") if dtype == BFLOAT16 else array

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


class TensorWriter:
    """Writes a safetensors file whose tensors come one after the other, or in parts; equal content gives equal bytes.

    Parameters: path; layout, dtype (a key of DTYPES) and shape of each tensor, in the file's order; metadata.
    Close it, or use it as a context.
    """

    def __init__(
        self, path: Path, layout: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
    ) -> None:
        self.layout = dict(layout)
        self._next: dict[str, int] = {}
        self._end: dict[str, int] = {}
        position = 0
        for name, (dtype, shape) in self.layout.items():
            self._next[name] = position
            position += math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
            self._end[name] = position
        self._offsets = {name: [self._next[name], self._end[name]] for name in self.layout}
        header = self._header(metadata)
        self._header_length = len(header)
        self._file = path.open("wb")
        self._file.write(header)

    def __enter__(self) -> TensorWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, name: str, values: NDArray[Any]) -> None:
        """The next elements of a tensor, as an array of its dtype."""
        numpy = DTYPES[self.layout[name][0]]
        array = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
        if array.dtype.str != numpy:
            raise TypeError(f"{name} must be written as {numpy}, not {array.dtype.str}")
        if self._next[name] + array.nbytes > self._end[name]:
            raise ValueError(f"{name} gets more than its {self._end[name] - self._offsets[name][0]} bytes")
        self._file.seek(self._header_length + self._next[name])
        self._file.write(array.data if array.size else b"")
        self._next[name] += array.nbytes

    def finish(self, metadata: Mapping[str, str] | None) -> None:
        """Replace the metadata, by some of the same length, and close; raises ValueError if anything is missing."""
        missing = [name for name, end in self._end.items() if self._next[name] != end]
        header = self._header(metadata)
        if missing or len(header) != self._header_length:
            raise ValueError(f"the file is not complete: {missing or 'its metadata has another length'}")
        self._file.seek(0)
        self._file.write(header)
        self._file.close()

    def flush(self) -> None:
        """Bring what was written to the file, where a TensorFile finds it."""
        self._file.flush()

    def _header(self, metadata: Mapping[str, str] | None) -> bytes:
        header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
        for name, (dtype, shape) in self.layout.items():
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": self._offsets[name]}
        encoded = json.dumps(header, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % ALIGNMENT)
        return len(encoded).to_bytes(LENGTH_BYTES, "little") + encoded


def bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Values rounded to bfloat16, half to even, as its bits."""
    bits = np.ascontiguousarray(values, "<f4").view("<u4").astype(np.uint64)
    rounded: NDArray[np.uint16] = (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype("<u2")
    return rounded


def dtype_name(array: NDArray[Any]) -> str:
    """The format's name of an array's dtype."""
    return NAMES[array.dtype.newbyteorder("<").str]


def write_tensors(
    path: Path,
    tensors: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, str] | None = None,
    *,
    bfloat16: bool = False,
) -> None:
    """Write a safetensors file, tensors in the mapping's order; equal content gives equal bytes.

    bfloat16: store float32 tensors rounded to bfloat16 (half to even).
    """
    names = {name: dtype_name(tensor) for name, tensor in tensors.items()}
    if bfloat16:
        names = {name: BFLOAT16 if dtype == "F32" else dtype for name, dtype in names.items()}
    layout = {name: (names[name], tensor.shape) for name, tensor in tensors.items()}
    with TensorWriter(path, layout, metadata) as writer:
        for name, tensor in tensors.items():
            writer.append(name, bfloat16_bits(tensor) if names[name] == BFLOAT16 else tensor)
