"""The command scheduler of an SDRAM."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ternlight.sdram import PRECHARGE_BIT, Command, SdramPart, mode_register

from ..pipeline import Flow
from .ports import SdramPins, WordAddress, run_layout
from .refresher import Refresher

REGISTERS = 2
"""Between controller and memory, both ways together: one in the output cells, one in the input cells."""


class Controller(wiring.Component):
    """Reads and writes runs of words, each in one row, in their order, and refreshes.

    A word is one burst. Its READ or WRITE takes one cycle of its `burst` on the command bus; in the others the row of
    the run after it is opened, in another bank, and the last burst of a run closes its row (auto precharge). If the run
    after is offered as a run begins, words follow each other without a gap

    * within a run, and across runs of the same row, which stays open;
    * across runs in different banks, if the first lasts opening + 5 cycles.

    Runs of different rows of one bank are closing_read + opening - burst cycles apart, and so reads from writes by some
    20. A refresh waits for an idle memory, or for the end of a run (see Refresher): a batch of n costs a long read

        closing_read - burst + n * t_rfc + opening cycles.

    A run that was begun is not held up: there must be room for all its words. The clock of the memory is this
    component's.

    Parameters
    ----------
    part: the memory. clock_hz: of this component. burst: beats of a word, 4 or 8.
    Of these: opening, cycles from ACTIVATE to the first READ or WRITE; closing_read and closing_write, from the last to
    the next ACTIVATE of the bank; read_latency, from the decision to read to the word.

    Members
    -------
    runs: In(stream of run_layout); of a write `count` is 0.
    word: In(1 word), what the run that writes is to write, from when it is offered to when it was.
    taken: Out(1), a pulse: `word` was taken.
    words: Out(Flow of words), of the runs that read. read_latency cycles after its READ was decided, and
        read_latency + opening + 2 after its run was taken by an idle controller.
    pins: Out(SdramPins), by registers; through REGISTERS more to the memory and back.
    """

    def __init__(self, *, part: SdramPart, clock_hz: int, burst: int) -> None:
        self.part = part
        self.clock_hz = clock_hz
        self.burst = burst
        self.address = WordAddress(part=part, burst=burst)
        self.timing = timing = part.timing(clock_hz)
        # An auto precharge begins with the end of the burst, and some parts do not wait for t_ras themselves.
        self.opening = max(2, timing.t_rcd, timing.t_ras - burst)
        if timing.t_rrd > self.opening:
            raise ValueError(f"t_rrd of {timing.t_rrd} cycles is longer than opening a row takes: {self.opening}")
        self.closing_read = max(burst + timing.t_rp, timing.t_rc - self.opening)
        self.closing_write = max(burst - 1 + timing.t_wr + timing.t_rp, timing.t_rc - self.opening)
        self.read_latency = REGISTERS + timing.cas + burst + 2
        row = self.address.row_words * burst
        self.refresh_wait = 2 * row + self.opening + self.closing_write + self.read_latency
        super().__init__(
            {
                "runs": In(stream.Signature(run_layout(self.address))),
                "word": In(self.address.word_bits),
                "taken": Out(1),
                "words": Out(Flow(unsigned(self.address.word_bits))),
                "pins": Out(SdramPins(part)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        timing, burst, address = self.timing, self.burst, self.address
        pins = self.pins
        m.submodules.refresher = refresher = Refresher(part=self.part, timing=timing, wait=self.refresh_wait)

        # The decisions of a cycle: one at most.
        close_all, set_mode, refresh, activate, column = (
            Signal(name=name) for name in ("close_all", "set_mode", "refresh", "activate", "column")
        )

        # Commands that close the whole memory for a while.
        longest = max(timing.t_rp, timing.t_mrd, timing.t_rfc)
        rest = Signal(range(longest + 1))
        rested = Signal()
        m.d.comb += rested.eq(rest == 0)
        for command, cycles in ((close_all, timing.t_rp), (set_mode, timing.t_mrd), (refresh, timing.t_rfc)):
            with m.If(command):
                m.d.sync += rest.eq(cycles - 1)
        with m.If(~rested):
            m.d.sync += rest.eq(rest - 1)

        # Power-up: a pause, all banks closed, the refreshes that are owed from the start, the mode.
        pause = Signal(range(timing.power_up + 1), init=timing.power_up)
        stable, powered, configured = Signal(), Signal(), Signal()
        m.d.sync += stable.eq(pause == 0)
        with m.If(pause != 0):
            m.d.sync += pause.eq(pause - 1)
        m.d.comb += [
            close_all.eq(~powered & stable),
            set_mode.eq(powered & ~configured & ~refresher.urgent & rested),
            refresher.enable.eq(powered),
            refresher.done.eq(refresh),
        ]
        with m.If(close_all):
            m.d.sync += powered.eq(1)
        with m.If(set_mode):
            m.d.sync += configured.eq(1)

        # Banks: `busy` from ACTIVATE until the next is allowed.
        busy = Signal(self.part.BANKS)

        # `following` is the run whose row is opened, `current` the one whose words are read or written.
        layout = run_layout(address)
        following, current = Signal(layout), Signal(layout)
        waiting, fresh, opened, joins = (Signal(name=name) for name in ("waiting", "fresh", "opened", "joins"))
        opening = Signal(range(self.opening))
        running, last, ends = Signal(), Signal(), Signal()
        m.d.comb += self.runs.ready.eq(~waiting)
        with m.If(self.runs.valid & ~waiting):
            m.d.sync += [following.eq(self.runs.payload), waiting.eq(1), fresh.eq(1), opened.eq(0)]
        m.d.comb += ends.eq(column & last)
        closes = Signal()
        m.d.comb += closes.eq(ends & ~(joins & ~refresher.urgent))
        with m.If(fresh):
            same = Cat(following.write, following.bank, following.row) == Cat(current.write, current.bank, current.row)
            m.d.sync += [fresh.eq(0), joins.eq(same & running & ~ends)]
        with m.If(closes):
            m.d.sync += joins.eq(0)

        # Refreshes need every bank closed: before urgent ones no row is opened, and others give way.
        idle, hold = Signal(), Signal()
        m.d.sync += idle.eq(~running & ~waiting & ~self.runs.valid)
        m.d.comb += [
            hold.eq(refresher.urgent | (refresher.due & idle & configured)),
            refresh.eq(powered & hold & ~busy.any() & rested),
            activate.eq(
                waiting
                & ~(fresh | opened | joins | hold | column)
                & configured
                & rested
                & ~busy.bit_select(following.bank, 1)
            ),
        ]
        with m.If(activate):
            m.d.sync += [opened.eq(1), opening.eq(self.opening - 2)]
        with m.Elif(opening != 0):
            m.d.sync += opening.eq(opening - 1)

        # From `following` to `current`, a cycle before its first column command at the earliest.
        drain = Signal(range(timing.cas + burst + 1))
        promote, kind = Signal(), Signal()
        m.d.comb += promote.eq(
            ~running
            & waiting
            & ~fresh
            & (joins | (opened & (opening == 0)))
            & ((following.write == kind) | (drain == 0))
        )
        with m.If(promote):
            m.d.sync += [
                current.eq(following),
                running.eq(1),
                last.eq(following.count == 0),
                kind.eq(following.write),
                waiting.eq(0),
                joins.eq(0),
            ]

        # Column commands, a burst apart.
        beats = Signal(range(burst))
        m.d.comb += column.eq(running & (beats == 0))
        with m.If(column):
            m.d.sync += [
                beats.eq(burst - 1),
                drain.eq(timing.cas + burst),
                current.column.eq(current.column + 1),
                current.count.eq(current.count - 1),
                last.eq(current.count == 1),
                running.eq(~last),
            ]
        with m.Else():
            with m.If(beats != 0):
                m.d.sync += beats.eq(beats - 1)
            with m.If(drain != 0):
                m.d.sync += drain.eq(drain - 1)

        for bank in range(self.part.BANKS):
            closing = Signal(name=f"closing{bank}")
            wait = Signal(range(max(self.closing_read, self.closing_write)), name=f"wait{bank}")
            with m.If(closing):
                m.d.sync += wait.eq(wait - 1)
                with m.If(wait == 0):
                    m.d.sync += [busy[bank].eq(0), closing.eq(0)]
            with m.If(closes & (current.bank == bank)):
                m.d.sync += [
                    closing.eq(1),
                    wait.eq(Mux(current.write, self.closing_write - 2, self.closing_read - 2)),
                ]
            with m.If(activate & (following.bank == bank)):
                m.d.sync += busy[bank].eq(1)

        # Bank and address may be anything with NOP, and so need not wait for the decision.
        all_banks = Const(1 << PRECHARGE_BIT, address.row_bits)
        mode = Const(mode_register(burst=burst, cas=timing.cas), address.row_bits)
        column_address = Cat(Const(0, burst.bit_length() - 1), current.column)
        early = Signal(
            data.StructLayout({"command": 3, "bank": address.bank_bits, "address": address.row_bits}),
            init={"command": Command.NOP},
        )
        m.d.sync += [
            early.command.eq(Command.NOP),
            early.bank.eq(Mux(column, current.bank, following.bank)),
            early.address.eq(following.row),
        ]
        with m.If(column):
            m.d.sync += [
                early.command.eq(Mux(current.write, Command.WRITE, Command.READ)),
                early.address.eq(column_address | closes << PRECHARGE_BIT),
            ]
        with m.If(activate):
            m.d.sync += early.command.eq(Command.ACTIVATE)
        with m.If(refresh):
            m.d.sync += early.command.eq(Command.REFRESH)
        with m.If(close_all):
            m.d.sync += [early.command.eq(Command.PRECHARGE), early.address.eq(all_banks)]
        with m.If(set_mode):
            m.d.sync += [early.command.eq(Command.MODE), early.address.eq(mode), early.bank.eq(0)]
        # A cycle more, in which words to write are taken and the way to the pins is behind the commands.
        m.d.sync += [
            pins.command.eq(early.command),
            pins.bank.eq(early.bank),
            pins.address.eq(early.address),
            pins.mask.eq(~configured),
        ]
        self._data(m, column, current.write)
        return m

    def _data(self, m, column, write):
        """Words into beats, and beats into words."""
        pins, width = self.pins, self.part.width
        written, left = Signal(self.address.word_bits), Signal(range(self.burst))
        m.d.comb += pins.dq_o.eq(written[:width])
        m.d.sync += [self.taken.eq(column & write), written.eq(Mux(self.taken, self.word, written >> width))]
        with m.If(self.taken):
            m.d.sync += [pins.dq_oe.eq(1), left.eq(self.burst - 1)]
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        with m.Else():
            m.d.sync += pins.dq_oe.eq(0)
        # A word is complete a fixed time after its READ.
        coming = Signal(self.read_latency)
        m.d.sync += [
            coming.eq(Cat(column & ~write, coming)),
            self.words.payload.eq(Cat(self.words.payload[width:], pins.dq_i)),
        ]
        m.d.comb += self.words.valid.eq(coming[-1])
