"""The lanes of an ECP5: carry chains that select and accumulate, fed by block RAMs lane after lane."""

from __future__ import annotations

from functools import reduce
from operator import or_

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ternlight.formats import ACTIVATION_BITS
from ternlight.geometry import Geometry, ceil_div
from ternlight.store_word import SEGMENT

from ..layouts import result_layout
from ..pipeline import Flow
from ..primitives import DISTRIBUTED_RAM, DISTRIBUTED_RAM_WORDS
from .block_store import BlockStore
from .carry import ZERO, accumulate, add, chain, select_add
from .delay import Delay
from .ports import ActivationWrite, PairWrite, StepPort, buffers

_BANK_SHIFT = exact_log2(DISTRIBUTED_RAM_WORDS)


def row_sums(m: Module, *, activations, nonzero, negative, accumulator, clear, other):
    """One row: the next value of its accumulator; the lane of column c runs max(0, c % SEGMENT - 1) cycles late.

    A segment takes two lanes at first, one of which LUTs select, and one more per cycle: 32 columns of a carry chain.
    The +1 of a negation goes into the guard of the lane's adder; that of a segment's first lane waits for a
    guard further on, of which there are as many: in the tree over the segments, and before the accumulator.
    """
    sums, carries = [], []
    for first in range(0, len(activations), SEGMENT):
        x, some, minus = (values[first : first + SEGMENT] for values in (activations, nonzero, negative))
        total = Signal(ACTIVATION_BITS)
        m.d.comb += total.eq((x[0] ^ minus[0].replicate(ACTIVATION_BITS)) & some[0].replicate(ACTIVATION_BITS))
        adders, registers = [], []
        for lane in range(1, SEGMENT):
            bits = ACTIVATION_BITS + lane.bit_length()
            adders.append(select_add(total, x[lane], negative=minus[lane], nonzero=some[lane], bits=bits))
            total = Signal(bits)
            registers.append(total)
        m.d.sync += [register.eq(value) for register, value in zip(registers, chain(m, adders), strict=True)]
        sums.append(total)
        # At the segment's sum the lanes of its first step are three cycles old.
        carries.append(tuple(Delay(m, value, "carry")[SEGMENT - 1] for value in (minus[0], some[0])))

    while len(sums) > 1:
        adders, registers, waiting = [], [], []
        pairs = list(zip(sums[::2], sums[1::2], strict=False))
        for a, b in pairs:
            bits = max(len(a), len(b)) + 1
            adders.append(add(a, b, bits=bits, carry=carries.pop()))
            registers.append(Signal(bits))
        if len(sums) % 2:
            registers.append(Signal(len(sums[-1])))
        values = []
        for index in range(0, len(adders), 2):
            values += chain(m, adders[index : index + 2])
        values += sums[2 * len(pairs) :]
        m.d.sync += [register.eq(value) for register, value in zip(registers, values, strict=True)]
        for carry in carries:
            waiting.append(tuple(Delay(m, value, "carry")[1] for value in carry))
        sums, carries = registers, waiting

    bits = len(accumulator)
    (carry,) = carries
    (following,) = chain(m, [accumulate(accumulator, sums[0], clear=clear, other=other, bits=bits, carry=carry)])
    return following


class SystolicLanes(wiring.Component):
    """Lanes whose rows, in groups of V, and within them the lanes of a segment work one cycle behind each other.

    So activations are handed on from group to group, addresses from block RAM to block RAM, and the beats of a row
    group come out one by one as they are finished.

    Parameters: geometry; latency, of a group's first beat; embed_gap, by which an embedding takes longer.
    Members: as of Lanes.
    """

    def __init__(self, *, geometry: Geometry, latency: int, embed_gap: int) -> None:
        self.geometry = geometry
        self.latency = latency
        self.embed_gap = embed_gap
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
        geometry, step = self.geometry, self.step
        m.submodules.store = store = BlockStore(
            geometry=geometry, product_cycle=self.latency - 1, embed_gap=self.embed_gap
        )
        wiring.connect(m, wiring.flipped(self.load), store.load)
        m.d.comb += [
            store.address.eq(step.address),
            store.cell.eq(step.cell),
            store.header.eq(step.header),
            store.embed.eq(step.valid & step.embed),
        ]
        product = step.valid & ~step.embed
        # The last cycle before the first group's accumulators hold a step's sum, for products and embeddings.
        before = self.latency - 1
        embed = Delay(m, step.valid & step.embed, "embed")[before - 1 + self.embed_gap]
        last = Delay(m, product & step.last, "last")[before - 1]
        valid = Delay(m, product, "valid")[before - 1]
        first = Delay(m, step.first, "first")[before - 1]
        end = Delay(m, step.end, "end")[before - 1]
        final = Delay(m, step.final, "final")
        final_product, final_embed = final[before - 1], final[before - 1 + self.embed_gap]

        activations = self._activations(m)
        emitted, beats, finals = [], [], []
        for group in range(geometry.group_beats):
            enable, clear, emit, ends = Signal(), Signal(), Signal(), Signal()
            wanted = last & (end >= group)
            if group:
                m.d.sync += [
                    enable.eq(valid),
                    clear.eq(first),
                    emit.eq(wanted),
                    ends.eq(final_product & (end == group)),
                ]
            else:
                m.d.sync += [
                    enable.eq(valid | embed),
                    clear.eq(first | embed),
                    emit.eq(wanted | embed),
                    ends.eq(Mux(embed, final_embed, final_product & (end == 0))),
                ]
            values = []
            for row in range(group * geometry.vector, (group + 1) * geometry.vector):
                lanes = slice(row * geometry.inputs, (row + 1) * geometry.inputs)
                accumulator, out = (Signal(geometry.accumulator, name=f"{name}{row}") for name in ("sum", "out"))
                other = store.embedded.as_value().word_select(row, geometry.accumulator) if group == 0 else None
                following = row_sums(
                    m,
                    activations=activations,
                    nonzero=store.nonzero[lanes],
                    negative=store.negative[lanes],
                    accumulator=accumulator,
                    clear=clear,
                    other=other if group == 0 else [ZERO] * geometry.accumulator,
                )
                with m.If(enable):
                    m.d.sync += accumulator.eq(following)
                # A register that is zero unless it is the group's turn: an OR takes the place of a multiplexer.
                with m.If(emit):
                    m.d.sync += out.eq(following)
                with m.Else():
                    m.d.sync += out.eq(0)
                values.append(out)
            beat_valid, final_beat = Signal(), Signal()
            m.d.sync += [beat_valid.eq(emit), final_beat.eq(emit & ends)]
            emitted.append(beat_valid)
            finals.append(final_beat)
            beats.append(Cat(*values))
            # What the next group sees a cycle later.
            handed = {"valid": valid, "first": first, "last": last, "end": end, "final": final_product}
            for name, value in handed.items():
                handed[name] = Signal.like(value, name=f"{name}_of_{group + 1}", init=0)
                m.d.sync += handed[name].eq(value)
            valid, first, last, end, final_product = handed.values()
            activations = [self._handed(m, value) for value in activations]
        m.d.comb += [
            self.sums.valid.eq(Cat(*emitted).any()),
            self.sums.payload.values.eq(reduce(or_, beats)),
            self.sums.payload.last.eq(Cat(*finals).any()),
        ]
        return m

    @staticmethod
    def _handed(m, value):
        following = Signal.like(value)
        m.d.sync += following.eq(value)
        return following

    def _activations(self, m):
        """Column by column, the activations of a step 3 cycles and the column's skew behind it."""
        geometry = self.geometry
        vector = geometry.vector
        banks = ceil_div(buffers(geometry) * geometry.buffer_chunks, DISTRIBUTED_RAM_WORDS)
        chunk = Delay(m, self.step.chunk, "chunk")
        columns = [None] * geometry.inputs
        for part in range(geometry.inputs // vector):
            for skew in range(SEGMENT - 1):
                members = [
                    column
                    for column in range(part * vector, (part + 1) * vector)
                    if max(0, column % SEGMENT - 1) == skew
                ]
                address = chunk[1 + skew]
                read = []
                for bank in range(banks):
                    m.submodules[f"part{part}_skew{skew}_bank{bank}"] = memory = Memory(
                        shape=unsigned(ACTIVATION_BITS * len(members)),
                        depth=DISTRIBUTED_RAM_WORDS,
                        init=[],
                        attrs=DISTRIBUTED_RAM,
                    )
                    write, port = memory.write_port(), memory.read_port(domain="comb")
                    register = Signal(port.data.shape(), name=f"read{part}_{skew}_{bank}")
                    m.d.comb += [
                        write.en.eq(self.write.parts[part] & (self.write.address[_BANK_SHIFT:] == bank)),
                        write.addr.eq(self.write.address),
                        write.data.eq(
                            Cat(
                                self.write.values.word_select(column - part * vector, ACTIVATION_BITS)
                                for column in members
                            )
                        ),
                        port.addr.eq(address),
                    ]
                    # Zero unless it is the bank's turn, as with the beats.
                    with m.If(address[_BANK_SHIFT:] == bank):
                        m.d.sync += register.eq(port.data)
                    with m.Else():
                        m.d.sync += register.eq(0)
                    read.append(register)
                chosen = Signal.like(read[0], name=f"chosen{part}_{skew}")
                m.d.comb += chosen.eq(reduce(or_, read))
                for index, column in enumerate(members):
                    columns[column] = value = Signal(ACTIVATION_BITS, name=f"x{column}")
                    m.d.sync += value.eq(chosen.word_select(index, ACTIVATION_BITS))
        return columns
