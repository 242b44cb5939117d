"""The weight store of an ECP5: block RAMs whose addresses are as late as the lanes that they feed."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ternlight.geometry import (
    BLOCK_LOW_BITS,
    CODE_BITS,
    STORE_BLOCK_BITS,
    TRITS_PER_CODE,
    Geometry,
    ceil_div,
)
from ternlight.store_word import cell_positions, lane_order, lane_skew

from ..layouts import result_beat
from ..primitives import BLOCK_RAM_SHAPES, SharedBlockRam
from .delay import Delay
from .embedding import embedding_beat
from .ports import PairWrite
from .trit_decoder import TritDecoder

OUTPUT = 2
"""Cycles from an address to the output register of a block RAM."""


def code_skews(geometry: Geometry) -> list[int]:
    """The skew of each code, that of its first lane."""
    lanes = lane_order(geometry)[::TRITS_PER_CODE]
    return [lane_skew(*divmod(int(lane), geometry.inputs), geometry) for lane in lanes]


def block_skews(geometry: Geometry) -> list[int]:
    """The skew of each block, that of the code that its first bit belongs to."""
    skews = code_skews(geometry)
    return [skews[block * STORE_BLOCK_BITS // CODE_BITS] for block in range(geometry.store_blocks)]


def upper_cell_bits(geometry: Geometry) -> list[list[tuple[int, int]]]:
    """Where the bits of a cell lie that no narrow port reads: for each, (block, bit) by cell."""
    low_bits = min(geometry.cell_low_bits(geometry.cells), geometry.cell_bits)
    return [
        [divmod(int(position), STORE_BLOCK_BITS) for position in cell_positions(geometry)[:, bit]]
        for bit in range(low_bits, geometry.cell_bits)
    ]


def embedding_latency(geometry: Geometry) -> int:
    """Cycles from a step to its embedding beat, at least: its upper bits come with the weights, after their skew."""
    skews = block_skews(geometry)
    upper = max((skews[block] for places in upper_cell_bits(geometry) for block, _ in places), default=0)
    # Behind the output register: one for each skew's choice, one for all bits of the cell, one for the beat.
    return OUTPUT + upper + 3


class BlockStore(wiring.Component):
    """Block RAMs of 1,024 words, of which the first port reads weights, and the second a cell of an embedding.

    Trits of lane l are out 3 + lane_skew(l) cycles after `address`. The few bits of codes that do not fit the skew of
    their block RAM wait in flip-flops. The beat of a cell is out product_cycle + embed_gap cycles after `embed`, for
    one cycle, and zero otherwise. The trits of the first row group that would meet it there are zero.

    Parameters: geometry; product_cycle, embed_gap, in sum at least embedding_latency(geometry).
    Members: address, cell, header, embed: In, as of StepPort. load: In(PairWrite), while nothing is read.
    nonzero, negative: Out(lanes), as of the TritDecoder. embedded: Out(result_beat).
    """

    def __init__(self, *, geometry: Geometry, product_cycle: int, embed_gap: int) -> None:
        limit = BLOCK_RAM_SHAPES[STORE_BLOCK_BITS]
        if geometry.store_words > limit:
            raise ValueError(f"store_words must be at most {limit} on an ECP5, not {geometry.store_words}")
        self.geometry = geometry
        self.product_cycle = product_cycle
        self.embed_gap = embed_gap
        self.embedding_cycle = product_cycle + embed_gap
        super().__init__(
            {
                "address": In(ceil_log2(geometry.store_words)),
                "cell": In(ceil_log2(geometry.cells)),
                "header": In(1),
                "embed": In(1),
                "load": In(PairWrite(geometry)),
                "nonzero": Out(geometry.lanes),
                "negative": Out(geometry.lanes),
                "embedded": Out(result_beat(geometry)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        geometry = self.geometry
        skews = block_skews(geometry)
        width = max(1, BLOCK_LOW_BITS // geometry.cells)
        part = {8: 9, 16: 18}.get(width, width)

        address = Signal.like(self.address)
        m.d.comb += address.eq(Mux(self.load.enable, self.load.address, self.address))
        addresses = Delay(m, address, "address")
        enable, pair = Delay(m, self.load.enable, "load"), Delay(m, self.load.pair, "pair")
        data = Delay(m, self.load.data, "data")
        # The cell's bits are due two cycles before the beat, and the output register is one before them.
        part_cycle = self.embedding_cycle - 2 - OUTPUT
        part_address = Delay(m, Cat(self.cell[: ceil_log2(BLOCK_LOW_BITS // width)], self.address), "cell_address")[
            part_cycle
        ]

        blocks = []
        for index, skew in enumerate(skews):
            m.submodules[f"block{index}"] = block = SharedBlockRam(part=part)
            m.d.comb += [
                block.address.eq(addresses[skew]),
                block.write_enable.eq(enable[skew] & (pair[skew] == index // 2)),
                block.write_data.eq(data[skew].word_select(index % 2, STORE_BLOCK_BITS)),
                block.part_address.eq(part_address),
            ]
            blocks.append(block)
        self._decode(m, blocks, skews)
        self._embed(m, blocks, skews, width)
        return m

    def _decode(self, m, blocks, skews):
        geometry = self.geometry
        order = lane_order(geometry)
        stored = [Delay(m, block.read_data, f"word{index}") for index, block in enumerate(blocks)]
        waiting = {}
        clear = Delay(m, self.embed, "clear")

        def stored_bit(position, skew):
            """A bit of the word, as late as its code."""
            block, index = divmod(position, STORE_BLOCK_BITS)
            if (position, skew) not in waiting:
                waiting[position, skew] = Delay(m, stored[block][0][index], f"bit{position}")[skew - skews[block]]
            return waiting[position, skew]

        nonzero, negative = [None] * geometry.lanes, [None] * geometry.lanes
        for code, skew in enumerate(code_skews(geometry)):
            lanes = [int(lane) for lane in order[code * TRITS_PER_CODE :][:TRITS_PER_CODE]]
            m.submodules[f"decoder{code}"] = decoder = TritDecoder(lanes=len(lanes))
            m.d.comb += decoder.codes.eq(Cat(stored_bit(code * CODE_BITS + index, skew) for index in range(CODE_BITS)))
            for index, lane in enumerate(lanes):
                late = lane_skew(*divmod(lane, geometry.inputs), geometry) - skew
                some = Signal(name=f"some{lane}")
                m.d.sync += some.eq(decoder.nonzero[index])
                if lane // geometry.inputs < geometry.vector:
                    with m.If(clear[OUTPUT + skew + self.embed_gap]):
                        m.d.sync += some.eq(0)
                nonzero[lane] = Delay(m, some, f"nonzero{lane}")[late]
                negative[lane] = Delay(m, decoder.negative[index], f"negative{lane}")[1 + late]
        m.d.comb += [self.nonzero.eq(Cat(*nonzero)), self.negative.eq(Cat(*negative))]

    def _embed(self, m, blocks, skews, width):
        geometry = self.geometry
        due = self.embedding_cycle
        cell, header, embed = (
            Delay(m, value, name)
            for value, name in ((self.cell, "cell"), (self.header, "header"), (self.embed, "embed"))
        )
        spread = ceil_div(geometry.cells, BLOCK_LOW_BITS)
        chosen = []
        for bit in range(min(geometry.cell_low_bits(geometry.cells), geometry.cell_bits)):
            first = bit // width * spread
            column = Cat(blocks[first + index].part_data[bit % width] for index in range(spread))
            chosen.append(column.bit_select(cell[due - 2][ceil_log2(BLOCK_LOW_BITS) :], 1) if spread > 1 else column)
        for number, places in enumerate(upper_cell_bits(geometry)):
            parts = []
            for skew in sorted({skews[block] for block, _ in places}):
                # The bit of the cell, or 0 if it is in block RAMs of another skew.
                part = Signal(name=f"upper{number}_{skew}")
                candidates = Cat(
                    blocks[block].read_data[index] if skews[block] == skew else Const(0) for block, index in places
                )
                m.d.sync += part.eq(candidates.bit_select(cell[OUTPUT + skew], 1))
                parts.append(Delay(m, part, f"upper{number}_{skew}")[due - 2 - (OUTPUT + skew + 1)])
            chosen.append(Cat(*parts).any())
        bits = Signal(geometry.cell_bits)
        m.d.sync += bits.eq(Cat(*chosen))
        beat = embedding_beat(m, bits, header[due - 1], geometry)
        with m.If(embed[due - 1]):
            m.d.sync += self.embedded.eq(beat)
        with m.Else():
            m.d.sync += self.embedded.eq(0)
