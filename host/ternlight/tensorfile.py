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
        try:
            with self.path.open("rb") as file:
                file.seek(entry.start)
                data = file.read(entry.size)
        except OSError as problem:
            raise self.error(f"{self.path} cannot be read: {problem.strerror}") from None
        if len(data) != entry.size:
            raise self.error(f"{self.path} became shorter while it was read")
        array = np.frombuffer(data, DTYPES[entry.dtype]).reshape(entry.shape)
        # A bfloat16 is the upper half of a float32.
        return (array.astype("<u4") << 16).view("<f4") if entry.dtype == BFLOAT16 else array

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


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
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    blocks = []
    position = 0
    for name, tensor in tensors.items():
        array = np.ascontiguousarray(tensor).astype(tensor.dtype.newbyteorder("<"), copy=False)
        dtype = NAMES[array.dtype.str]
        if bfloat16 and dtype == "F32":
            bits = array.view("<u4").astype(np.uint64)
            array, dtype = (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype("<u2"), BFLOAT16
        data = array.tobytes()
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [position, position + len(data)]}
        blocks.append(data)
        position += len(data)
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(LENGTH_BYTES, "little") + encoded)
        file.writelines(blocks)
