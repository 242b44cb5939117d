"""The vector unit: memories, the pipe's control, V lanes and the reductions."""

from __future__ import annotations

from itertools import pairwise

from amaranth import Cat, Const, EnableInserter, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from ternlight.formats import COMPACT_BITS, EMBED_SHIFT_MAX
from ternlight.geometry import Geometry
from ternlight.isa import READS_RESULTS, VectorOp

from ..layouts import WRITEBACK, activation_beat, element_beat, result_beat, vector_command
from ..memory import ColumnMemory, LoadPort, ReadPort
from .arithmetic import clamp
from .beat import BEAT, ENTRY, LONG_EXIT, ROUNDED, ROUTE, SHORT_EXIT, WRITES_VECTOR, is_one_of
from .issue import Issue
from .lane import EXIT, FACTOR_BITS, Lane
from .reduce import Reduce


def any_of(conditions):
    """Whether one of the conditions holds."""
    return Cat(*conditions).any()


class VectorUnit(wiring.Component):
    """Runs vector commands in order, one beat of V elements per cycle: ternlight_sim.golden.vector, bit for bit.

    All operations share one pipe. A beat that needs a result waits for it at the pipe's entry, with its operands
    fetched; a command's first beat is there `fetch` cycles after the command's transfer. From its entry (the cycle
    of the result's transfer) a beat takes

    * `quant_latency` cycles until a quantised beat is valid,
    * `short_latency` until EMBED, STAT, GAIN and RESID write, `long_latency` until FORGET, STATE, GATE and MLP do,
    * `reduce_latency` more from the operation's last write until its first reduction is valid on `writeback`;
      a second one follows in the next cycle, in the order peak, energy, power.

    Commands follow each other without a gap, with three exceptions: an operation of a single beat comes one cycle
    later; a short operation behind a long one waits until nothing can overtake (`long_latency - short_latency + 2`
    cycles between their entries); one with a fence is accepted when all writes of those before are done, which is
    in the cycle of the last of them at the earliest.

    A write is visible to commands that are accepted in its cycle or later; without a fence, an operation may read
    what was there before the operations in flight. `beats` counts input beats and is at least 1; at least 2 for EMBED,
    whose rows are signed bytes, and even for MLP. `fraction` is at most 13, except for RESID. Sums are exact up to
    2**13 elements.

    Parameters
    ----------
    geometry: vector, accumulator, vector_words, gain_words and state_words are used.

    Attributes: fetch, quant_latency, short_latency, long_latency, reduce_latency.

    Members
    -------
    command: stream of layouts.vector_command, in.
    results: stream of layouts.result_beat for the operations in isa.READS_RESULTS, in.
    quantised: stream of layouts.activation_beat from QUANT, out. A refused beat stops the whole unit.
    writeback: stream of layouts.WRITEBACK, out; its receiver is always ready.
    gain_load, state_load: the host's writes (LoadPort), in; state_read: its reads (ReadPort); only while idle.
    idle: no command, nothing in the pipe, no writeback pending, out.
    """

    fetch = ENTRY + 1
    quant_latency = ROUNDED - ENTRY
    short_latency = SHORT_EXIT - ENTRY
    long_latency = LONG_EXIT - ENTRY

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.gains = ColumnMemory(depth=geometry.gain_words, columns=geometry.gain_columns)
        self.states = ColumnMemory(depth=geometry.state_words, columns=geometry.gain_columns)
        self.reduce = Reduce(lanes=geometry.vector)
        self.reduce_latency = self.reduce.latency
        gains, states = self.gains, self.states
        super().__init__(
            {
                "command": In(stream.Signature(vector_command())),
                "results": In(stream.Signature(result_beat(geometry))),
                "quantised": Out(stream.Signature(activation_beat(geometry))),
                "writeback": Out(stream.Signature(WRITEBACK)),
                "gain_load": In(LoadPort(address_bits=gains.address_bits, column_bits=gains.column_bits)),
                "state_load": In(LoadPort(address_bits=states.address_bits, column_bits=states.column_bits)),
                "state_read": In(ReadPort(address_bits=states.address_bits, data_bits=states.data_bits)),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        geometry = self.geometry
        m.submodules.gains = gains = self.gains
        m.submodules.states = states = self.states
        m.submodules.elements = elements = Memory(shape=element_beat(geometry), depth=geometry.vector_words, init=[])
        source, target = elements.read_port(), elements.write_port()
        m.submodules.issue = issue = Issue()
        m.submodules.reduce = reduce = self.reduce
        lanes = [Lane(accumulator=geometry.accumulator) for _ in range(geometry.vector)]

        thawed = Signal()
        beats = [issue.beat, *(Signal(BEAT, name=f"beat_{stage}") for stage in range(1, LONG_EXIT + 1))]
        routes = [issue.route, *(Signal(ROUTE, name=f"route_{stage}") for stage in range(1, LONG_EXIT + 1))]
        advance = self._control(m, issue, beats, routes, thawed)

        m.d.comb += [
            source.en.eq(issue.beat.valid & advance),
            source.addr.eq(issue.source),
            gains.read.enable.eq(issue.beat.valid & advance),
            gains.read.address.eq(issue.gain),
        ]
        connect(m, flipped(self.gain_load), gains.load)
        connect(m, flipped(self.state_load), states.load)
        m.d.comb += self.state_read.data.eq(states.read.data)
        with m.If(issue.busy):
            m.d.comb += [
                states.read.enable.eq(issue.beat.valid & advance),
                states.read.address.eq(issue.state),
            ]
        with m.Else():
            m.d.comb += [
                states.read.enable.eq(self.state_read.enable),
                states.read.address.eq(self.state_read.address),
            ]

        leaving = beats[LONG_EXIT].valid
        short = beats[SHORT_EXIT]
        op, route = reduce.op, reduce.route
        m.d.comb += [
            op.eq(Mux(leaving, beats[LONG_EXIT].op, short.op)),
            route.eq(Mux(leaving, routes[LONG_EXIT], routes[SHORT_EXIT])),
            reduce.valid.eq(Mux(leaving, routes[LONG_EXIT].produces, short.valid & ~short.long)),
            target.addr.eq(route.target),
            target.en.eq(reduce.valid & is_one_of(op, WRITES_VECTOR)),
            states.write.address.eq(route.target),
            states.write.enable.eq(reduce.valid & (op == VectorOp.STATE)),
        ]
        gain_words = data.View(data.ArrayLayout(signed(COMPACT_BITS), geometry.vector), gains.read.data)
        state_words = data.View(data.ArrayLayout(signed(COMPACT_BITS), geometry.vector), states.read.data)
        new_states = data.View(data.ArrayLayout(signed(COMPACT_BITS), geometry.vector), states.write.data)
        factor = self._factor(m, beats[ENTRY].op, routes[ENTRY])
        for index, lane in enumerate(lanes):
            m.submodules[f"lane_{index}"] = lane
            leaves = Signal(EXIT, name=f"exit_{index}")
            m.d.comb += [
                *(port.eq(beat) for port, beat in zip(lane.beats, beats, strict=True)),
                lane.advance.eq(advance),
                lane.source.eq(source.data[index]),
                lane.gain.eq(gain_words[index]),
                lane.state.eq(state_words[index]),
                lane.result.eq(self.results.payload[index]),
                lane.factor.eq(factor),
                self.quantised.p.values[index].eq(lane.activation),
                leaves.eq(Mux(leaving, lane.long, lane.short)),
                target.data[index].eq(leaves.value),
                new_states[index].eq(leaves.value),
                reduce.values[index].eq(leaves.value),
                reduce.energies[index].eq(leaves.energy),
                reduce.powers[index].eq(leaves.power),
            ]

        rounded = beats[ROUNDED]
        m.d.comb += [
            self.quantised.valid.eq(rounded.valid & (rounded.op == VectorOp.QUANT)),
            self.quantised.p.buffer.eq(routes[ROUNDED].buffer),
            thawed.eq(~self.quantised.valid | self.quantised.ready),
            self.writeback.valid.eq(reduce.writeback.valid & thawed),
            self.writeback.payload.eq(reduce.writeback.payload),
        ]
        # Folds away where the receiver is always ready.
        return EnableInserter(thawed)(m)

    def _control(self, m, issue, beats, routes, thawed):
        """Move the beats; returns whether the stages up to ENTRY move."""
        entry = beats[ENTRY]
        needs_result = is_one_of(entry.op, READS_RESULTS)
        blocked, enters, advance = Signal(), Signal(), Signal()
        # A long operation must leave two cycles before a short one behind it: its reductions take so long.
        # Counted rather than looked up in the stages: this is on the path to every enable up to ENTRY.
        hold = Signal(range(self.long_latency - self.short_latency + 2))
        with m.If(enters & entry.long):
            m.d.sync += hold.eq(self.long_latency - self.short_latency + 1)
        with m.Elif(hold != 0):
            m.d.sync += hold.eq(hold - 1)
        m.d.comb += [
            blocked.eq(~entry.long & (hold != 0)),
            enters.eq(entry.valid & ~blocked & (~needs_result | self.results.valid)),
            advance.eq(~entry.valid | enters),
            self.results.ready.eq(entry.valid & ~blocked & needs_result & thawed),
        ]
        for stage, (before, after) in enumerate(pairwise(beats)):
            if stage < ENTRY:
                moves, valid = advance, before.valid
            elif stage == ENTRY:
                moves, valid = Const(1), enters & ~routes[ENTRY].header
            else:
                moves, valid = Const(1), before.valid & (before.long if stage >= SHORT_EXIT else 1)
            with m.If(moves):
                with m.If(before.valid):
                    m.d.sync += [after.eq(before), routes[stage + 1].eq(routes[stage])]
                m.d.sync += after.valid.eq(valid)

        # Beats that will write after this cycle.
        to_write = [
            *(beat.valid for beat in beats[1:SHORT_EXIT]),
            *(beat.valid & beat.long for beat in beats[SHORT_EXIT:LONG_EXIT]),
        ]
        in_flight, leaving = any_of(to_write), beats[SHORT_EXIT].valid | beats[LONG_EXIT].valid
        m.d.comb += [
            issue.command.payload.eq(self.command.payload),
            issue.command.valid.eq(self.command.valid),
            self.command.ready.eq(issue.command.ready & thawed),
            issue.advance.eq(advance),
            issue.drained.eq(~in_flight),
            self.idle.eq(~(issue.busy | in_flight | leaving | self.reduce.busy)),
        ]
        return advance

    def _factor(self, m, op, route):
        """The factor of a result in stage ENTRY: the mantissa, or for EMBED 2**exponent as its header said."""
        power = Signal(FACTOR_BITS)
        header = clamp(self.results.payload[0], 0, EMBED_SHIFT_MAX)[: EMBED_SHIFT_MAX.bit_length()]
        with m.If(route.header & self.results.valid & self.results.ready):
            m.d.sync += power.eq(1 << header)
        return Mux(op == VectorOp.EMBED, power, route.mantissa)
