"""The golden machine: runs compiled programs, instruction by instruction, on what a device would hold.

It reads the same program, gains and packed weight words as a device of the same geometry, and gives the same bits. All
its arrays have a leading batch axis: many sessions step at once, which makes evaluation on text fast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ternlight.compiler import CompiledModel
from ternlight.formats import ACTIVATION_BITS
from ternlight.geometry import Geometry
from ternlight.isa import (
    SCALAR_REGISTERS,
    TEMPERATURE_REGISTER,
    ControlOp,
    EngineOp,
    ScalarOp,
    Unit,
    VectorOp,
)
from ternlight.trits import unpack_store_words

from .golden import scalar, vector
from .golden.integer import Ints
from .golden.matvec import matvec
from .golden.scalar import UFloat

Writes = list[tuple[int, UFloat]]
Trace = Callable[[int, dict[str, Any], Writes], None]
"""Called after each instruction with its index, its fields, and the scalar registers that it wrote, in order."""


@dataclass
class MachineState:
    """The sessions of a batch: states (batch, state_stride, V) as int64, and the tokens that each has seen."""

    states: Ints
    position: int


@dataclass(frozen=True)
class Logits:
    """Accumulators (batch, vocabulary) of the head, and the scale that makes them nats (over the temperature)."""

    accumulators: Ints
    scale: UFloat

    def real(self) -> NDArray[np.float64]:
        """The logits in floating point (those over the temperature)."""
        reals: NDArray[np.float64] = self.accumulators * self.scale.real()[:, None]
        return reals


def matrix(words: NDArray[np.uint32], chunks: int, groups: int, geometry: Geometry) -> NDArray[np.int8]:
    """The padded matrix (groups * rows, chunks * inputs) that the engine sees in a run of store words."""
    trits = unpack_store_words(words, geometry).reshape(-1, geometry.rows, geometry.inputs)
    order = [
        (group, chunk)
        for first in range(0, groups, geometry.block)
        for chunk in range(chunks)
        for group in range(first, min(first + geometry.block, groups))
    ]
    tiles = np.zeros((groups, geometry.rows, chunks, geometry.inputs), np.int8)
    for word, (group, chunk) in enumerate(order):
        tiles[group, :, chunk] = trits[word]
    return tiles.reshape(groups * geometry.rows, chunks * geometry.inputs)


class Machine:
    """Runs the program of a compiled model.

    Parameters: model; the machine keeps its matrices unpacked, ready for a library of single-precision products.
    """

    def __init__(self, model: CompiledModel) -> None:
        self.model = model
        self.geometry = model.geometry
        self._gains = model.gains.astype(np.int64)
        self._matrices = {
            index: matrix(
                model.store[fields["address"] : fields["address"] + fields["chunks"] * fields["groups"]],
                fields["chunks"],
                fields["groups"],
                model.geometry,
            ).astype(np.float32)
            for index, fields in enumerate(model.program)
            if fields["unit"] == Unit.ENGINE and fields["op"] == EngineOp.MATVEC
        }

    def initial_state(self, batch: int) -> MachineState:
        """Sessions that have seen nothing."""
        return MachineState(np.zeros((batch, self.model.state_stride, self.geometry.vector), np.int64), 0)

    def run(
        self,
        tokens: NDArray[np.integer[Any]],
        state: MachineState,
        *,
        head: bool = True,
        inverse_temperature: tuple[int, int] | None = None,
        trace: Trace | None = None,
    ) -> Logits | None:
        """One token of every session; the state is updated. Without `head` it stops at HEAD, as in a prompt.

        tokens: (batch,); inverse_temperature: ufloat (default 1). Returns the logits with `head`.
        """
        return _Run(self, tokens, state, inverse_temperature or (1 << 14, -14)).execute(head, trace)

    def step(self, tokens: NDArray[np.integer[Any]], state: MachineState) -> tuple[NDArray[np.float64], MachineState]:
        """One token of every session: real logits (batch, vocabulary), and the state (the same object)."""
        logits = self.run(tokens, state)
        assert logits is not None
        return logits.real(), state

    def embedding_row(self, fields: dict[str, Any], tokens: NDArray[np.integer[Any]]) -> Ints:
        """The V-groups (batch, beats, V) of signed bytes of the tokens' rows."""
        vector, columns = self.geometry.vector, self.geometry.store_columns
        first = fields["address"] + tokens.astype(np.int64) * fields["chunks"]
        words = self.model.store[first[:, None] + np.arange(fields["chunks"])]
        filled = self.geometry.embedding_beats * vector * ACTIVATION_BITS // 8
        row = np.ascontiguousarray(words).view(np.int8).reshape(len(tokens), -1, columns * 4)[:, :, :filled]
        return row.reshape(len(tokens), -1, vector)[:, : fields["beats"]].astype(np.int64)

    def gains(self, address: int, words: int) -> Ints:
        """A vector of gains, flat."""
        return self._gains[address : address + words].reshape(-1)

    def product(self, index: int, activations: Ints) -> Ints:
        """The accumulators of the product at a program index."""
        weights = self._matrices[index]
        padded = np.zeros((len(activations), weights.shape[1]), np.int64)
        padded[:, : activations.shape[1]] = activations
        return matvec(weights, padded)


class _Run:
    """The memories of one token."""

    def __init__(
        self,
        machine: Machine,
        tokens: NDArray[np.integer[Any]],
        state: MachineState,
        inverse_temperature: tuple[int, int],
    ) -> None:
        batch, geometry = len(tokens), machine.geometry
        self.machine = machine
        self.tokens = tokens
        self.state = state
        self.width = geometry.vector
        self.elements = np.zeros((batch, geometry.vector_words * self.width), np.int64)
        self.buffers: dict[int, Ints] = {}
        self.results: list[Ints] = []
        zero = np.zeros(batch, np.int64)
        self.registers = [UFloat(zero, zero)] * SCALAR_REGISTERS
        mantissa, exponent = inverse_temperature
        self.registers[TEMPERATURE_REGISTER] = UFloat(zero + mantissa, zero + exponent)
        self.logits: Logits | None = None

    def execute(self, head: bool, trace: Trace | None) -> Logits | None:
        for index, fields in enumerate(self.machine.model.program):
            unit, op = fields["unit"], fields["op"]
            if unit == Unit.CONTROL and (op == ControlOp.END or (op == ControlOp.HEAD and not head)):
                break
            writes: Writes = []
            if unit == Unit.VECTOR:
                writes = self._vector(fields)
            elif unit == Unit.SCALAR:
                writes = self._scalar(fields)
            elif unit == Unit.ENGINE:
                self._engine(index, fields)
            elif op == ControlOp.SAMPLE:
                accumulators = self.results.pop(0)[:, : fields["vocabulary"]]
                self.logits = Logits(accumulators, self.registers[fields["scale"]])
            for register, value in writes:
                self.registers[register] = value
            if trace is not None:
                trace(index, fields, writes)
        self.state.position += 1
        return self.logits

    def _engine(self, index: int, fields: dict[str, Any]) -> None:
        if fields["op"] == EngineOp.EMBED:
            result = self.machine.embedding_row(fields, self.tokens).reshape(len(self.tokens), -1)
        else:
            product = self.machine.product(index, self.buffers.pop(fields["buffer"]))
            result = product[:, : fields["beats"] * self.width]
        self.results.append(result)

    def _scalar(self, fields: dict[str, Any]) -> Writes:
        a = self.registers[fields["a"]]
        zero = np.zeros_like(a.mantissa)
        if fields["immediate"]:
            b = UFloat(zero + fields["mantissa"], zero + fields["exponent"])
        else:
            b = self.registers[fields["b"]]
        unary = {ScalarOp.RECIP: scalar.recip, ScalarOp.RSQRT: scalar.rsqrt, ScalarOp.QSCALE: scalar.qscale}
        binary = {ScalarOp.ADD: scalar.add, ScalarOp.MUL: scalar.mul, ScalarOp.LOWER: scalar.lower}
        op = fields["op"]
        return [(fields["target"], unary[op](a) if op in unary else binary[op](a, b))]

    def _read(self, address: int, words: int) -> Ints:
        return self.elements[:, address * self.width : (address + words) * self.width]

    def _write(self, address: int, values: Ints) -> None:
        self.elements[:, address * self.width : address * self.width + values.shape[1]] = values

    def _vector(self, fields: dict[str, Any]) -> Writes:
        op, beats = fields["op"], fields["beats"]
        register = self.registers[fields["scale"]]
        scale = UFloat(register.mantissa[:, None], register.exponent[:, None])
        fraction, shift = fields["fraction"], fields["shift"]
        source = self._read(fields["source"], beats)
        gains = self.machine.gains(fields["gain"], beats // 2 if op == VectorOp.MLP else beats)
        states = self.state.states[:, fields["state"] : fields["state"] + beats]
        hidden = states.reshape(len(states), -1) if self.state.position else np.zeros((len(states), 1), np.int64)
        sums = vector.Sums()
        output = source
        match op:
            case VectorOp.EMBED:
                row = self.results.pop(0)
                output, sums = vector.embed(row[:, self.width :], row[:, :1])
            case VectorOp.STAT:
                sums = vector.stat(source, gains, scale)
            case VectorOp.GAIN:
                output, sums = vector.gain(source, gains, scale)
            case VectorOp.QUANT:
                output = vector.quant(source, scale)
                self.buffers[fields["buffer"]] = output
            case VectorOp.FORGET:
                output = vector.forget(self.results.pop(0), gains, scale)
            case VectorOp.STATE:
                output = vector.state(self.results.pop(0), source, hidden, scale, fraction)
                self.state.states[:, fields["state"] : fields["state"] + beats] = output.reshape(states.shape)
            case VectorOp.GATE:
                # The new state of this very token, whatever the position.
                output, sums = vector.gate(self.results.pop(0), states.reshape(len(states), -1), shift, fraction)
            case VectorOp.MLP:
                pairs = self.results.pop(0).reshape(len(source), -1, 2, self.width)
                acc = pairs.transpose(0, 1, 3, 2).reshape(len(source), -1, 2)
                output, sums = vector.mlp(acc, gains, scale, shift, fraction)
            case VectorOp.RESID:
                output, sums = vector.resid(self.results.pop(0), source, scale, fraction)
        if op not in (VectorOp.STAT, VectorOp.QUANT, VectorOp.STATE):
            self._write(fields["target"], output)
        found = {name: value for name, value in sums._asdict().items() if value is not None}
        return [(fields[name], scalar.normalise(value)) for name, value in found.items()]
