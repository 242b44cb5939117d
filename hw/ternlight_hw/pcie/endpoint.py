"""The PCIe endpoint: from streams of TLPs to the host's bus and the events."""

from __future__ import annotations

from collections.abc import Mapping

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ternlight.abi import Window
from ternlight.pcie_map import REQUEST_WINDOW, Fault, PcieCounter

from ..bus import HostBus
from ..command_port import RequestExecutor
from ..packets import PACKET_WORD, EventBuffer, PacketMultiplexer
from .answer_ring import AnswerRing
from .arbiter import TlpArbiter
from .completer import Completer
from .fetcher import RequestFetcher
from .gearbox import TlpPacker, TlpUnpacker
from .receiver import TlpReceiver
from .registers import PAGE_BITS, PcieRegisters
from .request_ring import RequestRing
from .requester import TlpRequester
from .sender import AnswerSender
from .tlp import BEAT, CONFIGURATION

REQUEST_PAGE = REQUEST_WINDOW >> PAGE_BITS + 2


class PcieEndpoint(wiring.Component):
    """BAR 0, both rings and the DMA of ternlight.pcie_map, behind a hard block that does the rest.

    The hard block has the link, the configuration space and flow control: it passes on the TLPs that are for us, and
    makes an MSI of `interrupt`. Writes and completions are always taken, at one word per cycle; reads of the host only
    while `room`, and if it sends more than MARGIN beyond, the stream waits. So nothing that we must take waits for
    something that we must send.

    Requests wait in windows of WINDOW_WORDS, which is more than a host has under way.

    Parameters: columns, words per row of each window (ternlight.abi.window_columns).
    Members:
        receive: In stream of BEAT; room: Out(1); transmit: Out stream of BEAT.
        configuration: In CONFIGURATION.
        interrupt: Out(1), until interrupt_done: In(1), for a cycle.
        bus: Out HostBus; events: In stream of PACKET_WORD.
    """

    def __init__(self, *, columns: Mapping[Window, int]) -> None:
        self.columns = dict(columns)
        self._executor = RequestExecutor(columns=columns)
        super().__init__(
            {
                "receive": In(stream.Signature(BEAT)),
                "room": Out(1),
                "transmit": Out(stream.Signature(BEAT)),
                "configuration": In(CONFIGURATION),
                "interrupt": Out(1),
                "interrupt_done": In(1),
                "bus": Out(HostBus()),
                "events": In(stream.Signature(PACKET_WORD)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.unpacker = unpacker = TlpUnpacker()
        m.submodules.receiver = receiver = TlpReceiver()
        m.submodules.completer = completer = Completer()
        m.submodules.registers = registers = PcieRegisters()
        m.submodules.requests = requests = RequestRing()
        m.submodules.fetcher = fetcher = RequestFetcher()
        m.submodules.answers = answers = AnswerRing()
        m.submodules.sender = sender = AnswerSender()
        m.submodules.reads = reads = TlpRequester()
        m.submodules.writes = writes = TlpRequester()
        m.submodules.arbiter = arbiter = TlpArbiter(sources=3)
        m.submodules.packer = packer = TlpPacker()
        m.submodules.executor = executor = self._executor
        m.submodules.event_buffer = event_buffer = EventBuffer()
        m.submodules.multiplexer = multiplexer = PacketMultiplexer()

        # TLPs.
        connect(m, flipped(self.receive), unpacker.beats)
        connect(m, unpacker.dwords, receiver.dwords)
        connect(m, receiver.request, completer.requests)
        connect(m, fetcher.command, reads.command)
        connect(m, sender.command, writes.command)
        connect(m, sender.words, writes.data)
        for source, place in zip((completer, reads, writes), arbiter.sources, strict=True):
            connect(m, source.dwords, place)
        connect(m, arbiter.dwords, packer.dwords)
        connect(m, packer.beats, flipped(self.transmit))
        configuration = self.configuration
        m.d.comb += [
            self.room.eq(completer.room),
            *(unit.identity.eq(configuration.requester) for unit in (completer, reads, writes, fetcher)),
            reads.data.valid.eq(0),
        ]

        # Packets.
        connect(m, requests.request, executor.request)
        connect(m, executor.bus, flipped(self.bus))
        connect(m, flipped(self.events), event_buffer.event)
        connect(m, executor.answer, multiplexer.first)
        connect(m, event_buffer.packet, multiplexer.second)
        connect(m, multiplexer.packet, answers.packets)

        # Registers and rings.
        dma = registers.control.dma
        wrote_request = receiver.write.enable & (receiver.write.address >> PAGE_BITS == REQUEST_PAGE)
        m.d.comb += [
            registers.write.eq(receiver.write),
            registers.address.eq(completer.address),
            completer.data.eq(registers.data),
            registers.answer.eq(answers.data),
            registers.configuration.eq(configuration),
            registers.idle.eq(requests.idle & fetcher.idle & answers.idle & sender.idle),
            requests.head.eq(Mux(dma, fetcher.fetched, registers.request_head)),
            answers.tail.eq(Mux(dma, sender.sent, registers.answer_tail)),
            answers.address.eq(Mux(dma, sender.address, completer.address)),
            registers.request_tail.eq(requests.tail),
            registers.answer_head.eq(Mux(dma, sender.sent, answers.head)),
            fetcher.base.eq(registers.request_base),
            fetcher.head.eq(registers.request_head),
            fetcher.tail.eq(requests.tail),
            fetcher.max_read.eq(configuration.max_read),
            fetcher.timeout.eq(registers.timeout),
            fetcher.header.eq(receiver.header),
            fetcher.completion.eq(receiver.completion),
            sender.base.eq(registers.answer_base),
            sender.status_base.eq(registers.status_base),
            sender.max_payload.eq(configuration.max_payload),
            sender.head.eq(answers.head),
            sender.host_tail.eq(registers.answer_tail),
            sender.request_tail.eq(requests.tail),
            sender.status.eq(registers.status),
            sender.data.eq(answers.data),
        ]
        for unit in (requests, fetcher, answers, sender):
            for name in registers.control.signature.members:
                m.d.comb += getattr(unit.control, name).eq(getattr(registers.control, name))
        # Completions and writes come by the same stream: never both in a cycle.
        with m.If(wrote_request & ~dma):
            m.d.comb += [
                requests.write.enable.eq(1),
                requests.write.index.eq(receiver.write.address[:PAGE_BITS]),
                requests.write.data.eq(receiver.write.data),
            ]
        with m.Else():
            m.d.comb += requests.write.eq(fetcher.write)

        # Interrupts: what the host can see has changed.
        seen_head, seen_status = Signal.like(answers.head), Signal.like(registers.status)
        m.d.sync += [seen_head.eq(answers.head), seen_status.eq(registers.status)]
        visible = (seen_head != answers.head) | (seen_status != registers.status)
        pending = Signal()
        with m.If(registers.control.clear | self.interrupt_done):
            m.d.sync += pending.eq(0)
        with m.If(registers.interrupts & ~registers.control.clear & Mux(dma, sender.news.report, visible)):
            m.d.sync += pending.eq(1)
        m.d.comb += self.interrupt.eq(pending & configuration.interrupt)

        # Faults and counters.
        news, fetched, sent = receiver.news, fetcher.news, sender.news
        faults = {
            Fault.READ_REFUSED: fetched.refused,
            Fault.READ_POISONED: fetched.poisoned,
            Fault.READ_BROKEN: fetched.broken,
            Fault.READ_TIMEOUT: fetched.timeout,
            Fault.WRITE_POISONED: news.write_poisoned,
            Fault.WRITE_BROKEN: news.write_broken,
            Fault.BAD_REQUEST: requests.bad,
        }
        m.d.comb += [registers.faults[flag.bit_length() - 1].eq(happened) for flag, happened in faults.items()]
        counts = {
            PcieCounter.RECEIVED: news.received,
            PcieCounter.SENT: self.transmit.valid & self.transmit.ready & self.transmit.payload.last,
            PcieCounter.WORDS_WRITTEN: receiver.write.enable,
            PcieCounter.READS: completer.told,
            PcieCounter.UNSUPPORTED: completer.unsupported,
            PcieCounter.PARTIAL: news.partial,
            PcieCounter.IGNORED: news.ignored,
            PcieCounter.POISONED: news.poisoned,
            PcieCounter.BROKEN: news.broken,
            PcieCounter.UNEXPECTED: fetched.unexpected,
            PcieCounter.FETCHES: fetched.issued,
            PcieCounter.FETCHED_WORDS: fetched.word,
            PcieCounter.FAILED: fetched.refused | fetched.poisoned | fetched.broken,
            PcieCounter.TIMEOUTS: fetched.timeout,
            PcieCounter.BURSTS: sent.burst,
            PcieCounter.SENT_WORDS: sent.word,
            PcieCounter.REPORTS: sent.report,
            PcieCounter.INTERRUPTS: self.interrupt & self.interrupt_done,
        }
        m.d.sync += registers.counts.eq(Cat(counts[counter] for counter in PcieCounter))
        return m
