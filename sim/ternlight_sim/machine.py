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
    REDUCES,
    SCALAR_REGISTERS,
    TEMPERATURE_REGISTER,
    ControlOp,
    EngineOp,
    GateOp,
    NormOp,
    ScalarOp,
    Unit,
)
from ternlight.trits import unpack_store_words
from ternlight.weights import unpack_embedding_words

from .golden import scalar, vector
from .golden.integer import Ints
from .golden.matvec import matvec
from .golden.scalar import UFloat

Writes = list[tuple[int, UFloat]]
Trace = Callable[[int, dict[str, Any], Writes], None]
"""Called after each instruction with its index, its fields, and the scalar registers that it wrote, in order."""


@dataclass
class MachineState:
    """The sessions of a batch: states (batch, state_stride, V / 2) as int64, and the tokens that each has seen."""

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
    tiles = unpack_store_words(words, geometry).reshape(groups, chunks, geometry.rows, geometry.inputs)
    return tiles.transpose(0, 2, 1, 3).reshape(groups * geometry.rows, chunks * geometry.inputs)


class Machine:
    """Runs the program of a compiled model.

    Parameters: model; the machine keeps its matrices unpacked, ready for a library of single-precision products.
    """

    def __init__(self, model: CompiledModel) -> None:
        self.model = model
        self.geometry = model.geometry
        self._gains = model.gains.astype(np.int64)
        # Of the element memories only what the program uses is kept: a geometry for any model has far more.
        norm = [fields for fields in model.program if fields["unit"] == Unit.NORM]
        self.element_words = tuple(
            max((fields["source"] + fields["beats"] for fields in norm if fields["gated"] == gated), default=0)
            for gated in (0, 1)
        )
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
        return MachineState(np.zeros((batch, self.model.state_stride, self.geometry.half), np.int64), 0)

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

    def embedding_row(self, fields: dict[str, Any], tokens: NDArray[np.integer[Any]]) -> tuple[Ints, Ints]:
        """The tokens' rows (batch, elements) as the engine gives them, signed bytes, and their scales (batch, 1)."""
        geometry, beats, stride = self.geometry, fields["chunks"], fields["groups"]
        places, cells = np.divmod(tokens.astype(np.int64), geometry.cells)
        words = self.model.store[fields["address"] + stride * np.arange(beats)[:, None] + places]
        values, scales = unpack_embedding_words(words.reshape(len(places) * beats, -1), beats, geometry)
        own = geometry.cells * np.arange(len(places)) + cells
        row = values[own].astype(np.int64) << ACTIVATION_BITS - geometry.embedding_bits
        return row, scales[own][:, None]

    def gains(self, address: int, words: int) -> Ints:
        """A vector of gains, flat."""
        return self._gains[address : address + words].reshape(-1)

    def lower_bounds(self, word: int, words: int) -> Ints:
        """Lower bounds by their place in the state memory, flat."""
        first = word - self.model.lower_bound_word
        return self.model.lower_bounds[first : first + words].astype(np.int64).reshape(-1)

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
        self.residual, self.gated = (np.zeros((batch, words * self.width), np.int64) for words in machine.element_words)
        self.forget = np.zeros((batch, 0), np.int64)
        self.buffers: dict[int, Ints] = {}
        self.results: list[Ints] = []
        self.row: tuple[Ints, Ints] | None = None
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
            if unit == Unit.NORM:
                writes = self._norm(fields)
            elif unit == Unit.GATE:
                writes = self._gate(fields)
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
            self.row = self.machine.embedding_row(fields, self.tokens)
        else:
            product = self.machine.product(index, self.buffers.pop(fields["buffer"]))
            self.results.append(product[:, : fields["beats"] * self.width])

    def _scalar(self, fields: dict[str, Any]) -> Writes:
        a = self.registers[fields["a"]]
        zero = np.zeros_like(a.mantissa)
        if fields["immediate"]:
            b = UFloat(zero + fields["mantissa"], zero + fields["exponent"])
        else:
            b = self.registers[fields["b"]]
        unary = {ScalarOp.RECIP: scalar.recip, ScalarOp.RSQRT: scalar.rsqrt, ScalarOp.QSCALE: scalar.qscale}
        binary = {ScalarOp.ADD: scalar.add, ScalarOp.MUL: scalar.mul}
        op = fields["op"]
        return [(fields["target"], unary[op](a) if op in unary else binary[op](a, b))]

    def _operand(self, fields: dict[str, Any]) -> UFloat:
        """The scalar operand, with a trailing axis."""
        register = self.registers[fields["scale"]]
        return UFloat(register.mantissa[:, None], register.exponent[:, None])

    def _norm(self, fields: dict[str, Any]) -> Writes:
        op, beats, scale = fields["op"], fields["beats"], self._operand(fields)
        memory = self.gated if fields["gated"] else self.residual
        source = memory[:, fields["source"] * self.width : (fields["source"] + beats) * self.width]
        gains = self.machine.gains(fields["gain"], beats)
        match op:
            case NormOp.EMBED:
                assert self.row is not None
                source[:], reduction = vector.embed(*self.row)
            case NormOp.RESID:
                source[:], reduction = vector.resid(self.results.pop(0), source, scale, fields["fraction"])
            case NormOp.PEAK:
                reduction = vector.peak(source, gains, fields["lift"])
            case NormOp.STAT:
                reduction = vector.stat(source, gains, fields["lift"])
            case NormOp.QUANT:
                self.buffers[fields["buffer"]] = vector.quant(source, gains, scale, fields["lift"])
                return []
        return [(fields["reduction"], reduction)]

    def _gate(self, fields: dict[str, Any]) -> Writes:
        op, beats, scale = fields["op"], fields["beats"], self._operand(fields)
        fraction, shift, half = fields["fraction"], fields["shift"], self.machine.geometry.half
        acc = self.results.pop(0)
        states = self.state.states[:, fields["state"] : fields["state"] + 2 * beats]
        match op:
            case GateOp.FORGET:
                self.forget = vector.forget(acc, self.machine.lower_bounds(fields["state"], 2 * beats), scale)
            case GateOp.STATE:
                hidden = states.reshape(len(states), -1) if self.state.position else np.zeros_like(acc)
                states[:] = vector.state(acc, self.forget, hidden, scale, fraction).reshape(states.shape)
            case GateOp.GATE:
                # The new state of this very token, whatever the position.
                t, reduction = vector.gate(acc, states.reshape(len(states), -1), shift, fraction)
                self._write_gated(fields["target"], t)
            case GateOp.MLP:
                pairs = acc.reshape(len(acc), -1, 2, half).transpose(0, 2, 1, 3).reshape(len(acc), 2, -1)
                t, reduction = vector.mlp(pairs, scale, shift, fraction)
                self._write_gated(fields["target"], t)
        return [(fields["reduction"], reduction)] if op in REDUCES[Unit.GATE] else []

    def _write_gated(self, address: int, values: Ints) -> None:
        self.gated[:, address * self.width : address * self.width + values.shape[1]] = values
