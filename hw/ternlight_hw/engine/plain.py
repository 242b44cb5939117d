"""The lanes in plain gateware, for simulation and for other parts than ECP5."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ternlight.formats import ACTIVATION_BITS
from ternlight.geometry import BLOCK_LOW_BITS, STORE_BLOCK_BITS, Geometry, ceil_div
from ternlight.store_word import lane_order

from ..layouts import result_layout
from ..pipeline import Flow
from .embedding import embedding_beat
from .ports import ActivationWrite, PairWrite, StepPort, buffers
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


class PlainLanes(wiring.Component):
    """Lanes of which all rows work in step, with the latency of those that do not.

    The step waits as long as this pipeline is shorter, before the wide words are fetched: that costs least.

    Parameters: geometry; latency, of a group's first beat; embed_gap, by which an embedding takes longer.
    Members: as of Lanes.
    """

    def __init__(self, *, geometry: Geometry, latency: int, embed_gap: int = 0) -> None:
        self.geometry = geometry
        self.latency = latency
        self.embed_gap = embed_gap
        self.rows = [Row(inputs=geometry.inputs) for _ in range(geometry.rows)]
        self.wait = latency - 3 - self.rows[0].stages
        if self.wait < 0:
            raise ValueError(f"latency must be at least {latency - self.wait} cycles, not {latency}")
        super().__init__(
            {
                "step": In(StepPort(geometry)),
                "write": In(ActivationWrite(geometry)),
                "load": In(PairWrite(geometry)),
                "sums": Out(Flow(result_layout(geometry))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        geometry, inputs, stages = self.geometry, self.geometry.inputs, self.rows[0].stages
        steps = [self.step]
        for cycle in range(self.latency - 1 + self.embed_gap):
            following = StepPort(geometry).create(path=("step", str(cycle)))
            m.d.sync += following.valid.eq(steps[-1].valid)
            with m.If(steps[-1].valid):
                m.d.sync += [
                    getattr(following, name).eq(getattr(steps[-1], name))
                    for name in following.signature.members
                    if name != "valid"
                ]
            steps.append(following)
        product = [step.valid & ~step.embed for step in steps]
        # Embeddings go the same way, `embed_gap` cycles late.
        embed = [step.valid & step.embed for step in steps[self.embed_gap :]]
        late, last = steps[self.embed_gap :], steps[self.latency - 1]

        address = Mux(embed[self.wait], late[self.wait].address, steps[self.wait].address)
        word = self._store(m, product[self.wait] | embed[self.wait], address)
        chunk = self._activations(m, product[self.wait + 1], steps[self.wait + 1].chunk)
        m.submodules.decoder = decoder = TritDecoder(lanes=geometry.lanes)
        m.d.comb += decoder.codes.eq(word)

        order = lane_order(geometry)
        place = {int(lane): position for position, lane in enumerate(order)}
        totals = []
        for index, row in enumerate(self.rows):
            m.submodules[f"row{index}"] = row
            lanes = [place[index * inputs + column] for column in range(inputs)]
            nonzero = Signal(inputs, name=f"nonzero{index}", reset_less=True)
            negative = Signal(inputs, name=f"negative{index}", reset_less=True)
            with m.If(product[self.wait + 1]):
                m.d.sync += [
                    nonzero.eq(Cat(decoder.nonzero[lane] for lane in lanes)),
                    negative.eq(Cat(decoder.negative[lane] for lane in lanes)),
                ]
            m.d.comb += [
                row.enable.eq(Cat(product[self.wait + 2 : self.wait + 2 + stages])),
                row.activations.eq(chunk),
                row.nonzero.eq(nonzero),
                row.negative.eq(negative),
            ]
            accumulator = Signal(signed(geometry.accumulator), name=f"accumulator{index}", reset_less=True)
            total = Signal(signed(geometry.accumulator), name=f"total{index}")
            m.d.comb += total.eq(Mux(last.first, 0, accumulator) + row.total + row.carry)
            with m.If(product[self.latency - 1]):
                m.d.sync += accumulator.eq(total)
            totals.append(total)

        embedded = self._embedding(m, word, late[self.wait + 1 :], embed[self.wait + 1 :])
        ends = product[self.latency - 1] & last.last
        self._beats(m, ends, last, Cat(*totals), embed[-1], late[-1].final, embedded)
        return m

    def _store(self, m, enable, address):
        """The word, in the next cycle."""
        pairs = ceil_div(self.geometry.store_blocks, 2)
        m.submodules.store = store = Memory(
            shape=unsigned(2 * STORE_BLOCK_BITS * pairs), depth=max(2, self.geometry.store_words), init=[]
        )
        write, read = store.write_port(granularity=2 * STORE_BLOCK_BITS), store.read_port()
        m.d.comb += [
            write.en.eq(self.load.enable << self.load.pair),
            write.addr.eq(self.load.address),
            write.data.eq(self.load.data.replicate(pairs)),
            read.en.eq(enable),
            read.addr.eq(address),
        ]
        return read.data

    def _activations(self, m, enable, address):
        """The chunk, in the next cycle."""
        geometry = self.geometry
        parts = geometry.inputs // geometry.vector
        m.submodules.activations = activations = Memory(
            shape=unsigned(ACTIVATION_BITS * geometry.inputs),
            depth=buffers(geometry) * geometry.buffer_chunks,
            init=[],
        )
        write, read = activations.write_port(granularity=len(self.write.values)), activations.read_port()
        m.d.comb += [
            write.en.eq(self.write.parts),
            write.addr.eq(self.write.address),
            write.data.eq(self.write.values.replicate(parts)),
            read.en.eq(enable),
            read.addr.eq(address),
        ]
        return read.data

    def _embedding(self, m, word, steps, embed):
        """The beat of an embedding step, when its group is due: only such steps touch these registers."""
        geometry = self.geometry
        beat = embedding_beat(m, pick_cell(word, steps[0].cell, geometry), steps[0].header, geometry)
        for enable in embed[:-1]:
            held = Signal(len(beat), reset_less=True)
            with m.If(enable):
                m.d.sync += held.eq(beat)
            beat = held
        return beat

    def _beats(self, m, ends, last, totals, embed, embed_final, embedded):
        """Holds a finished group, and lets out a beat per cycle."""
        geometry = self.geometry
        held = Signal(len(totals), reset_less=True)
        left = Signal(range(geometry.group_beats), reset_less=True)
        final = Signal(reset_less=True)
        with m.If(ends):
            m.d.sync += [self.sums.valid.eq(1), left.eq(last.end), final.eq(last.final), held.eq(totals)]
        with m.Elif(embed):
            m.d.sync += [self.sums.valid.eq(1), left.eq(0), final.eq(embed_final), held[: len(embedded)].eq(embedded)]
        with m.Else():
            m.d.sync += [self.sums.valid.eq(self.sums.valid & (left != 0)), left.eq(left - 1)]
            if geometry.group_beats > 1:
                with m.If(self.sums.valid):
                    m.d.sync += held.eq(held[len(embedded) :])
        m.d.comb += [
            self.sums.payload.values.eq(held[: len(embedded)]),
            self.sums.payload.last.eq(final & (left == 0)),
        ]


def pick_cell(word, cell, geometry: Geometry):
    """The bits of a cell, from their places in the word (ternlight.store_word.cell_positions).

    Of each block alone: a shift of the whole word would make every bit of the cell depend on every bit of the word.
    """
    cells, low_bits = geometry.cells, geometry.cell_low_bits(geometry.cells)
    width, spread = max(1, BLOCK_LOW_BITS // cells), ceil_div(cells, BLOCK_LOW_BITS)
    blocks = [word[place : place + STORE_BLOCK_BITS] for place in range(0, geometry.store_bits, STORE_BLOCK_BITS)]
    parts = [block[:BLOCK_LOW_BITS].word_select(cell[: ceil_log2(BLOCK_LOW_BITS // width)], width) for block in blocks]
    upper = Cat(block[BLOCK_LOW_BITS:] for block in blocks)
    bits = []
    for bit in range(geometry.cell_bits):
        if bit < low_bits:
            choices = Cat(parts[bit // width * spread + number][bit % width] for number in range(spread))
            bits.append(choices.bit_select(cell[ceil_log2(BLOCK_LOW_BITS) :], 1) if spread > 1 else choices)
        else:
            bits.append(upper[(bit - low_bits) * cells :][:cells].bit_select(cell, 1))
    return Cat(*bits)
