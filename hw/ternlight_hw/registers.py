"""The register window: identity, the loaded image, commands and performance counters."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ternlight.abi import ABI_VERSION, MAGIC, TOKEN_BITS, Counter, Register
from ternlight.geometry import Geometry

from .counters import Counters
from .sessions import COMMAND

OFFSET_BITS = 8
COUNTER_BITS = 64


class RegisterBus(wiring.Signature):
    """One register: held until `ack`, one cycle; `read_data` and `error` (no such register) are valid with `ack`."""

    def __init__(self) -> None:
        super().__init__(
            {
                "enable": Out(1),
                "write": Out(1),
                "offset": Out(OFFSET_BITS),
                "write_data": Out(32),
                "ack": In(1),
                "read_data": In(32),
                "error": In(1),
            }
        )


class Registers(wiring.Component):
    """Serves abi.Register; reads and writes take three cycles, a write of COMMAND one more than the command waits.

    A read of a counter's low word takes from 5 to len(Counter) + 4 cycles, and gives the count up to the fourth cycle
    before its `ack`.

    Parameters: geometry, build_id.
    Members:
        bus: In RegisterBus.
        image_id: Out(32), 0 without an image; vocabulary, state_stride: Out, as the host wrote them.
        command: Out stream of COMMAND; result: In(8), valid in the cycle after the command was taken.
        count: In, one bit per abi.Counter: the counter advances.
    """

    def __init__(self, *, geometry: Geometry, build_id: int) -> None:
        if not 0 <= build_id < 1 << 32:
            raise ValueError(f"build_id must be a 32-bit integer, not {build_id}")
        self.geometry = geometry
        self.build_id = build_id
        super().__init__(
            {
                "bus": In(RegisterBus()),
                "image_id": Out(32),
                "vocabulary": Out(TOKEN_BITS + 1),
                "state_stride": Out(16),
                "command": Out(stream.Signature(COMMAND)),
                "result": In(8),
                "count": In(unsigned(len(Counter))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.counters = counters = Counters(amount=len(Counter), bits=COUNTER_BITS)
        constants = {Register.MAGIC: MAGIC, Register.ABI_VERSION: ABI_VERSION, Register.BUILD_ID: self.build_id}
        constants |= {Register.GEOMETRY + index: word for index, word in enumerate(self.geometry.words())}
        writable = {
            Register.IMAGE_ID: self.image_id,
            Register.VOCABULARY: self.vocabulary,
            Register.STATE_STRIDE: self.state_stride,
        }
        lows = [Register.COUNTERS + 2 * counter for counter in Counter]
        highs = [low + 1 for low in lows]
        offset = self.bus.offset
        m.d.comb += [counters.count.eq(self.count), counters.index.eq((offset - Register.COUNTERS) >> 1)]

        # First step: a table of constants alone becomes a few gates per bit, and a bit says which register it is.
        constant = Signal(32)
        m.d.sync += constant.eq(0)
        with m.Switch(offset):
            for place, word in constants.items():
                with m.Case(place):
                    m.d.sync += constant.eq(word)

        def found(name, *places):
            hit = Signal(name=f"is_{name}")
            m.d.sync += hit.eq(Cat(offset == place for place in places).any())
            return hit

        is_written = {place: found(place.name.lower(), place) for place in writable}
        is_result, is_command = found("result", Register.RESULT), found("command", Register.COMMAND)
        is_low, is_high, is_constant = found("low", *lows), found("high", *highs), found("constant", *constants)

        # Second step.
        values = [(is_written[place], register) for place, register in writable.items()]
        values += [(is_result, self.result), (is_low, counters.total[:32]), (is_high, counters.total[32:])]
        value = constant
        for hit, word in values:
            value |= Mux(hit, word, 0)
        m.d.sync += [
            self.bus.read_data.eq(value),
            self.bus.error.eq(~(is_constant | is_command | Cat(hit for hit, _ in values).any())),
        ]
        m.d.comb += [
            self.command.payload.op.eq(self.bus.write_data),
            self.command.payload.slot.eq(self.bus.write_data[8:]),
        ]
        with m.FSM():
            with m.State("IDLE"), m.If(self.bus.enable):
                m.next = "DECIDE"
            with m.State("DECIDE"):
                m.next = "ACK"
                with m.If(self.bus.write):
                    for place, register in writable.items():
                        with m.If(is_written[place]):
                            m.d.sync += register.eq(self.bus.write_data)
                    with m.If(is_command):
                        m.next = "COMMAND"
                with m.Elif(is_low):
                    m.next = "COUNTER"
            with m.State("COMMAND"):
                m.d.comb += self.command.valid.eq(1)
                with m.If(self.command.ready):
                    m.next = "ACK"
            with m.State("COUNTER"):
                # The total stays, so that the high word is read later.
                m.d.comb += counters.wanted.eq(1)
                with m.If(counters.told):
                    m.next = "ACK"
            with m.State("ACK"):
                m.d.comb += self.bus.ack.eq(1)
                m.next = "IDLE"
        return m


def progress_counts(*, done):
    """The bits of the counters CYCLES, TOKENS and GENERATED, from the sequencer's stream of finished jobs."""
    finished = done.valid & done.ready
    return 1 << Counter.CYCLES | finished << Counter.TOKENS | (finished & done.payload.sampled) << Counter.GENERATED


def wait_causes(*, running, in_token, busy, starved, sampling, waiting_scalar, blocked):
    """The bits of the counters BUSY and WAIT_*, of which exactly one is set in each cycle while a session runs.

    Of several tokens at once, `sampling` and `waiting_scalar` tell what all of them wait for: while one could go on but
    for norm or gate unit, it is these that the lanes wait for.
    """
    causes = (
        (Counter.BUSY, busy),
        (Counter.WAIT_WEIGHTS, starved),
        (Counter.WAIT_LINK, ~in_token & blocked),
        (Counter.WAIT_CONTROL, ~in_token | sampling),
        (Counter.WAIT_SCALAR, waiting_scalar),
    )
    chosen = 1 << Counter.WAIT_VECTOR
    for counter, condition in reversed(causes):
        chosen = Mux(condition, 1 << counter, chosen)
    return Mux(running, chosen, 0)
