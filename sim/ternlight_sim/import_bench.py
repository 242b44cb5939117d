"""Measures `ternlight import` on synthetic checkpoints of the published shapes: python -m ternlight_sim.import_bench.

The weights are random with the statistics of trained ones: normal in each row, rows of different scales, a few
outliers, gains over three decades; 16-bit tensors in shards, and a tokenizer of 32,000 entries in the published layout.
The import runs as a process of its own, whose largest resident memory and time the system tells.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ternlight.checkpoint import EMBEDDING, INDEX_FILE, LOWER_BOUNDS, TOKENIZER_FILE, block_rows, tensor_shapes
from ternlight.config import CONFIG_FILE, PUBLISHED, ModelConfig, config_values
from ternlight.tensorfile import TensorWriter

from .random_model import GAIN_DECADES, llama_tokenizer

SHARD_BYTES = 2 << 30
DEVIATION = 0.02
ROW_DEVIATION = 0.3
"""Rows have log-normal scales."""
OUTLIERS = 1e-4
"""The share of weights that are ten times larger."""


def published_tensors(
    config: ModelConfig, seed: int = 0
) -> Iterator[tuple[str, tuple[int, ...], Iterator[np.ndarray]]]:
    """Names, shapes, and float16 blocks of rows of a synthetic checkpoint."""
    rng = np.random.default_rng(seed)
    gain_deviation = GAIN_DECADES * math.log(10) / 4

    def blocks(name: str, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        if len(shape) == 1:
            yield rng.lognormal(0.0, gain_deviation, shape).astype(np.float16)
            return
        deviation = 1.0 if name in (EMBEDDING, LOWER_BOUNDS) else DEVIATION
        count = block_rows(shape)
        for start in range(0, shape[0], count):
            rows = min(count, shape[0] - start)
            values = rng.standard_normal((rows, shape[1]), np.float32)
            values *= deviation * rng.lognormal(0.0, ROW_DEVIATION, (rows, 1)).astype(np.float32)
            values.reshape(-1)[rng.integers(values.size, size=max(1, int(values.size * OUTLIERS)))] *= 10
            yield values.astype(np.float16)

    for name, shape in tensor_shapes(config).items():
        yield name, shape, blocks(name, shape)


def write_published(config: ModelConfig, directory: Path) -> int:
    """Write a synthetic checkpoint, a block at a time; its bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG_FILE).write_text(json.dumps(config_values(config), indent=1))
    (directory / TOKENIZER_FILE).write_bytes(llama_tokenizer(config.vocabulary))
    shards: list[dict[str, tuple[str, tuple[int, ...]]]] = [{}]
    size = 0
    for name, shape in tensor_shapes(config).items():
        tensor_bytes = 2 * math.prod(shape)
        if size and size + tensor_bytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = ("F16", shape)
        size += tensor_bytes
    files = [f"model-{number + 1:05}-of-{len(shards):05}.safetensors" for number in range(len(shards))]
    tensors = published_tensors(config)
    places: dict[str, str] = {}
    for file, layout in zip(files, shards, strict=True):
        with TensorWriter(directory / file, layout) as writer:
            for _ in layout:
                name, _, blocks = next(tensors)
                for block in blocks:
                    writer.append(name, block)
        places |= dict.fromkeys(layout, file)
    (directory / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return sum((directory / file).stat().st_size for file in files)


def measure(name: str, parent: Path | None) -> dict[str, float | int | str]:
    """Make, import and delete one checkpoint."""
    config = PUBLISHED[name]
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        directory, image = Path(folder) / config.name, Path(folder) / "image.ternlight"
        checkpoint_bytes = write_published(config, directory)
        begun = time.monotonic()
        command = [sys.executable, "-m", "ternlight.cli", "import", str(directory), "-o", str(image), "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": _python_path()})
        assert process.stdout is not None
        report = json.loads(process.stdout.read() or b"{}")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"the import of {name} failed with exit code {process.returncode}")
        return {
            "model": name,
            "checkpoint_bytes": checkpoint_bytes,
            "weights": report["trits"],
            "image_bytes": report["bytes"],
            "peak_bytes": usage.ru_maxrss * 1024,
            "peak_over_image": usage.ru_maxrss * 1024 / report["bytes"],
            "seconds": time.monotonic() - begun,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
        }


def _python_path() -> str:
    return os.pathsep.join(sys.path)


def main() -> None:
    """Measure the models that the arguments name, all by default."""
    parser = argparse.ArgumentParser(description="Measure the import of synthetic checkpoints of published shapes.")
    parser.add_argument("models", nargs="*", help=f"of {', '.join(PUBLISHED)} (default: all)")
    parser.add_argument("--directory", type=Path, help="for temporary files: two bytes a weight")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each model")
    args = parser.parse_args()
    unknown = [name for name in args.models if name not in PUBLISHED]
    if unknown:
        parser.error(f"models must be of {', '.join(PUBLISHED)}, not {', '.join(unknown)}")
    for name in args.models or PUBLISHED:
        result = measure(name, args.directory)
        if args.json:
            print(json.dumps(result), flush=True)
        else:
            print(
                f"{name}: checkpoint {result['checkpoint_bytes']:,} bytes, image {result['image_bytes']:,} bytes, peak "
                f"memory {result['peak_bytes']:,} bytes ({result['peak_over_image']:.2f} of the image), "
                f"{result['seconds']:.0f} s ({result['cpu_seconds']:.0f} s of processor time)",
                flush=True,
            )


if __name__ == "__main__":
    main()
