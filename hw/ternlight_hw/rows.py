"""The lanes: R rows of C ternary weights against C activations, and the accumulators of a block of row groups."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ternlight.formats import ACTIVATION_BITS
from ternlight.geometry import Geometry

from .activations import chunk_layout
from .trit_decoder import TritDecoder

LEVELS = 2
"""Levels of the adder tree between registers; the first stage has one, and selects as well."""


class Row(wiring.Component):
    """Sum of C activations, each times a trit: sum = total + carry.

    A lane's -x is ~x + 1: the lane selects x ^ negative, and each adder of the tree takes the 1 of one lane as its
    carry in, where it costs nothing. A tree of C lanes has C - 1 adders; the last lane's 1 is left over as
    `carry`, for the adder of the accumulator.

    Latency is `stages` cycles, throughput one sum per cycle.

    Parameters
    ----------
    inputs: lanes (C).

    Members
    -------
    enable: In(stages), bit k lets stage k take its inputs.
    activations: In(C signed bytes).
    nonzero, negative: In(C), as from the TritDecoder.
    total, carry: Out, after the last stage.
    """

    def __init__(self, *, inputs: int) -> None:
        if inputs < 2:
            raise ValueError(f"inputs must be at least 2, not {inputs}")
        self.inputs = inputs
        self.levels = ceil_log2(inputs)
        self.stages = 1 + -(-(self.levels - 1) // LEVELS)
        super().__init__(
            {
                "enable": In(self.stages),
                "activations": In(data.ArrayLayout(signed(ACTIVATION_BITS), inputs)),
                "nonzero": In(inputs),
                "negative": In(inputs),
                "total": Out(signed(ACTIVATION_BITS + self.levels)),
                "carry": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        terms = []
        for lane in range(self.inputs):
            flip, keep = (mask[lane].replicate(ACTIVATION_BITS) for mask in (self.negative, self.nonzero))
            terms.append(((self.activations[lane].as_unsigned() ^ flip) & keep).as_signed())
        carries = self.nonzero & self.negative
        level = 0
        for stage in range(self.stages):
            for _ in range(min(LEVELS if stage else 1, self.levels - level)):
                level += 1
                # The sum of n lanes lies in -128 n .. 128 n - 1, with the carries of its adders.
                width = ACTIVATION_BITS + level
                pairs = list(zip(terms[::2], terms[1::2], strict=False))
                sums = [(a + b + carries[index])[:width].as_signed() for index, (a, b) in enumerate(pairs)]
                terms = sums + terms[2 * len(pairs) :]
                carries = carries[len(pairs) :]
            held = [
                Signal(term.shape(), name=f"sum{stage}_{index}", reset_less=True) for index, term in enumerate(terms)
            ]
            left = Signal(len(carries), name=f"carries{stage}", reset_less=True)
            with m.If(self.enable[stage]):
                m.d.sync += [register.eq(term) for register, term in zip(held, terms, strict=True)]
                m.d.sync += left.eq(carries)
            terms, carries = held, left
        m.d.comb += [self.total.eq(terms[0]), self.carry.eq(carries)]
        return m


class StepPort(wiring.Signature):
    """One store word on its way through the lanes.

    valid: a word is there. weights: the word. load: take `chunk` and hold it for the words to come.
    group: the row group within its block. first, last: the group's first (clears the accumulators) and last
    word (emits them). end: with `last`, the index of the last result beat wanted of this group.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "weights": Out(geometry.store_bits),
                "load": Out(1),
                "chunk": Out(chunk_layout(geometry)),
                "group": Out(range(geometry.block)),
                "first": Out(1),
                "last": Out(1),
                "end": Out(range(geometry.rows // geometry.vector)),
            }
        )


def sums_layout(geometry: Geometry) -> data.StructLayout:
    """The R finished accumulators of a row group, and the index of the last beat of V of them that is wanted."""
    return data.StructLayout(
        {
            "values": data.ArrayLayout(signed(geometry.accumulator), geometry.rows),
            "end": range(geometry.rows // geometry.vector),
        }
    )


class Rows(wiring.Component):
    """R rows of C lanes that accumulate over the chunks of a block of row groups; no multiplier.

    sums.values[r] = sum over the words of a group, first to last, of sum_c weights[r, c] * chunk[c].
    An accumulator that a product overflows wraps; the compiler refuses such products.

    Latency from `step` to `sums` is `latency` cycles, throughput one word per cycle in any order of groups.
    This is the portable datapath: another with the same ports may take its place, whatever its latency.

    Parameters
    ----------
    geometry: sizes of lanes, block and accumulators.

    Members
    -------
    step: In(StepPort).
    sums: Out(stream of sums_layout); its receiver is always ready.
    """

    def __init__(self, *, geometry: Geometry) -> None:
        self.geometry = geometry
        self.rows = [Row(inputs=geometry.inputs) for _ in range(geometry.rows)]
        self.latency = 1 + self.rows[0].stages
        super().__init__(
            {
                "step": In(StepPort(geometry)),
                "sums": Out(stream.Signature(sums_layout(geometry))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        geometry, inputs = self.geometry, self.geometry.inputs
        m.submodules.decoder = decoder = TritDecoder(lanes=geometry.lanes)
        m.d.comb += decoder.codes.eq(self.step.weights)

        valid = Signal(self.latency)
        m.d.sync += valid.eq(Cat(self.step.valid, valid))
        chunk = Signal(chunk_layout(geometry), reset_less=True)
        with m.If(self.step.valid & self.step.load):
            m.d.sync += chunk.eq(self.step.chunk)

        control = {name: getattr(self.step, name) for name in ("group", "first", "last", "end")}
        enable = self.step.valid
        for stage in range(self.latency):
            with m.If(enable):
                for name, value in control.items():
                    control[name] = Signal.like(value, name=f"{name}{stage}", reset_less=True)
                    m.d.sync += control[name].eq(value)
            enable = valid[stage]

        for index, row in enumerate(self.rows):
            m.submodules[f"row{index}"] = row
            nonzero = Signal(inputs, name=f"nonzero{index}", reset_less=True)
            negative = Signal(inputs, name=f"negative{index}", reset_less=True)
            with m.If(self.step.valid):
                m.d.sync += [
                    nonzero.eq(decoder.nonzero[index * inputs :]),
                    negative.eq(decoder.negative[index * inputs :]),
                ]
            m.d.comb += [
                row.enable.eq(valid),
                row.activations.eq(chunk),
                row.nonzero.eq(nonzero),
                row.negative.eq(negative),
            ]

            m.submodules[f"accumulators{index}"] = accumulators = Memory(
                shape=signed(geometry.accumulator), depth=geometry.block, init=[]
            )
            write = accumulators.write_port()
            # Read, add and write in one cycle, so that a block of one group runs at full speed.
            read = accumulators.read_port(domain="comb")
            total = Signal(signed(geometry.accumulator), name=f"total{index}")
            m.d.comb += [
                read.addr.eq(control["group"]),
                total.eq(Mux(control["first"], 0, read.data) + row.total + row.carry),
                write.addr.eq(control["group"]),
                write.data.eq(total),
                write.en.eq(enable),
                self.sums.payload.values[index].eq(total),
            ]
        m.d.comb += [self.sums.valid.eq(enable & control["last"]), self.sums.payload.end.eq(control["end"])]
        return m
