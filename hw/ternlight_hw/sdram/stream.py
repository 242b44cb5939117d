"""The SDRAM as its consumer sees it: requests ahead of time, words in order."""

from __future__ import annotations

from amaranth import DomainRenamer, Module, Mux, Signal, unsigned
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from ternlight.sdram import SdramPart

from .controller import Controller
from .ports import SdramPins, WordAddress, order_layout, request_layout, write_layout
from .runs import Runs

QUEUE = 4
"""Orders that may wait to cross. A deeper queue's pointers would be the slowest path of the memory's clock."""
MEMORY = "sdram"
"""The domain of the memory's clock."""


class SdramStream(wiring.Component):
    """Streams words of burst * part.width bits out of an SDRAM, in the order of requests, without a gap if possible.

    QUEUE requests wait ahead of those that are read, and words are fetched ahead until `depth` of them wait to be
    taken: a consumer that asks early enough, and takes less than the memory gives, waits for the first word only. The
    memory gives a word every `burst` cycles of its clock; see Controller for when it gives less, and docs/memory.md
    for what is measured. Requests, writes and words are in this component's clock, the pins in domain `sdram`'s; the
    clocks need not be related.

    It takes the place of a weight store on chip so: the compiler lays out the weight words of a token in the order of
    use, each padded to whole words. The sequencer sends a request as a MATVEC or an EMBED enters the engine's queue.
    Issue takes, instead of an address, a weight word that a width converter gathered from `words`; the engine's
    `starved` is then that a step could be issued and `words` is not valid. Loading is a write per word.

    Parameters
    ----------
    part: the memory. clock_hz: of domain `sdram`. burst: beats of a word, 4 or 8.
    depth: words that are fetched ahead, a power of two and at least 4 rows, of which each is a run. Of 512 words or
        less each 36 bits take a block RAM on an ECP5.

    Members
    -------
    requests: In(stream of request_layout).
    writes: In(stream of write_layout). A write goes before a request that is offered in the same cycle. Requests see
        all writes that were taken before them. A word crosses alone: about one every 30 cycles of the memory's clock.
    words: Out(stream of words).
    pins: Out(SdramPins), in domain `sdram`, for Pads or Registers.
    """

    def __init__(self, *, part: SdramPart, clock_hz: int, burst: int = 8, depth: int = 512) -> None:
        if depth & (depth - 1):
            raise ValueError(f"depth must be a power of two, not {depth}")
        self.part = part
        self.clock_hz = clock_hz
        self.burst = burst
        self.depth = depth
        self.address = WordAddress(part=part, burst=burst)
        self.controller = Controller(part=part, clock_hz=clock_hz, burst=burst)
        self.runs = Runs(address=self.address, depth=depth)
        super().__init__(
            {
                "requests": In(stream.Signature(request_layout(self.address))),
                "writes": In(stream.Signature(write_layout(self.address))),
                "words": Out(stream.Signature(unsigned(self.address.word_bits))),
                "pins": Out(SdramPins(part)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        in_memory = DomainRenamer(MEMORY)
        m.submodules.controller = controller = in_memory(self.controller)
        m.submodules.runs = runs = in_memory(self.runs)
        layout, word_bits = order_layout(self.address), self.address.word_bits
        m.submodules.orders = orders = fifo.AsyncFIFO(width=layout.size, depth=QUEUE, w_domain="sync", r_domain=MEMORY)
        m.submodules.read = read = fifo.AsyncFIFOBuffered(
            width=word_bits, depth=self.depth + 1, w_domain=MEMORY, r_domain="sync"
        )
        order, following = Signal(layout), Signal(layout)
        write, request = self.writes, self.requests
        # A word to write waits here, while its order crosses, until the memory's side has taken it.
        word, held, released, returned, seen = Signal(word_bits), Signal(), Signal(), Signal(), Signal()
        m.d[MEMORY] += released.eq(released ^ controller.taken)
        m.submodules.returned = FFSynchronizer(released, returned)
        m.d.sync += seen.eq(returned)
        with m.If(write.valid & write.ready):
            m.d.sync += [word.eq(write.payload.word), held.eq(1)]
        with m.Elif(returned != seen):
            m.d.sync += held.eq(0)
        with m.If(write.valid):
            m.d.comb += [order.write.eq(1), order.request.first.eq(write.payload.address), order.request.words.eq(1)]
        with m.Else():
            m.d.comb += order.request.eq(request.payload)
        m.d.comb += [
            write.ready.eq(orders.w_rdy & ~held),
            request.ready.eq(orders.w_rdy & ~write.valid),
            orders.w_data.eq(order),
            orders.w_en.eq(Mux(write.valid, write.ready, request.valid & request.ready)),
            # To runs and controller.
            following.eq(orders.r_data),
            runs.orders.payload.eq(following),
            runs.orders.valid.eq(orders.r_rdy),
            orders.r_en.eq(runs.orders.ready),
            controller.word.eq(word),
            # And back: there is room, for Runs saw to it.
            read.w_data.eq(controller.words.payload),
            read.w_en.eq(controller.words.valid),
            runs.arrived.eq(controller.words.valid),
            runs.held.eq(read.w_level),
            self.words.payload.eq(read.r_data),
            self.words.valid.eq(read.r_rdy),
            read.r_en.eq(self.words.ready),
        ]
        wiring.connect(m, runs.runs, controller.runs)
        wiring.connect(m, controller.pins, wiring.flipped(self.pins))
        return m
