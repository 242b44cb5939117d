"""The registers of the PCIe function (ternlight.pcie_map)."""

from __future__ import annotations

from amaranth import Cat, Module, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ternlight.pcie_map import (
    ANSWER_WINDOW,
    INDEX_BITS,
    MAGIC,
    MAP_VERSION,
    REQUEST_WINDOW,
    TIMEOUT_DEFAULT,
    Control,
    Fault,
    PcieCounter,
    PcieRegister,
)

from .control import RingControl
from .receiver import BAR_WRITE
from .sender import STATUS_BITS
from .tlp import BAR_WORD_BITS, CONFIGURATION, DWORD_BITS

WORD_BYTES = 4
PAGE_BITS = (REQUEST_WINDOW // WORD_BYTES - 1).bit_length()
"""Address bits of a word in the registers' part of the BAR, and in each window."""
ANSWER_PAGE = ANSWER_WINDOW >> PAGE_BITS + 2
FAULT_BITS = len(Fault)


class PcieRegisters(wiring.Component):
    """Holds what the host writes, the faults and the counters, and leads a reset of the rings.

    A write takes effect in the next cycle. A read gives, two cycles after `address`, a register, a word of the window
    of answers, or 0.

    Members:
        write: In BAR_WRITE; address: In; data: Out, two cycles later; answer: In, of the window, one cycle later.
        configuration: In CONFIGURATION, as LINK tells it.
        control: Out RingControl; idle: In, all that it controls is; interrupts: Out(1), as the host wants them.
        request_head, answer_tail, timeout: Out; request_base, answer_base, status_base: Out, addresses in words.
        request_tail, answer_head: In; status: Out.
        faults: In, a bit per Fault, for a cycle; counts: In, a bit per PcieCounter.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "write": In(BAR_WRITE),
                "address": In(BAR_WORD_BITS),
                "data": Out(DWORD_BITS),
                "answer": In(DWORD_BITS),
                "configuration": In(CONFIGURATION),
                "control": Out(RingControl()),
                "idle": In(1),
                "interrupts": Out(1),
                "request_head": Out(INDEX_BITS),
                "answer_tail": Out(INDEX_BITS),
                "timeout": Out(16, init=TIMEOUT_DEFAULT),
                "request_base": Out(62),
                "answer_base": Out(62),
                "status_base": Out(62),
                "request_tail": In(INDEX_BITS),
                "answer_head": In(INDEX_BITS),
                "status": Out(STATUS_BITS),
                "faults": In(FAULT_BITS),
                "counts": In(unsigned(len(PcieCounter))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        enable, dma, resetting = Signal(), Signal(), Signal()
        faults = Signal(FAULT_BITS)
        bases = {
            PcieRegister.REQUEST_BASE: self.request_base,
            PcieRegister.ANSWER_BASE: self.answer_base,
            PcieRegister.STATUS_BASE: self.status_base,
        }
        control = self.control
        m.d.comb += [
            control.run.eq(enable & (faults == 0)),
            control.dma.eq(dma),
            control.master.eq(self.configuration.master),
            control.resetting.eq(resetting),
            control.clear.eq(resetting & self.idle),
            self.status.eq(faults),
        ]
        m.d.sync += faults.eq(faults | self.faults)

        # Writes.
        number, word = self.write.address[:PAGE_BITS], self.write.data
        with m.If(self.write.enable & (self.write.address >> PAGE_BITS == 0)), m.Switch(number):
            with m.Case(PcieRegister.CONTROL):
                m.d.sync += [
                    enable.eq(_has(word, Control.ENABLE)),
                    dma.eq(_has(word, Control.DMA)),
                    self.interrupts.eq(_has(word, Control.INTERRUPT)),
                ]
                with m.If(_has(word, Control.RESET)):
                    m.d.sync += resetting.eq(1)
            with m.Case(PcieRegister.REQUEST_HEAD):
                m.d.sync += self.request_head.eq(word)
            with m.Case(PcieRegister.ANSWER_TAIL):
                m.d.sync += self.answer_tail.eq(word)
            with m.Case(PcieRegister.TIMEOUT):
                m.d.sync += self.timeout.eq(word)
            for place, base in bases.items():
                with m.Case(place):
                    m.d.sync += base[: DWORD_BITS - 2].eq(word >> 2)
                with m.Case(place + 1):
                    m.d.sync += base[DWORD_BITS - 2 :].eq(word)
        with m.If(control.clear):
            m.d.sync += [
                *(signal.eq(0) for signal in (enable, dma, self.interrupts, resetting, faults)),
                *(signal.eq(0) for signal in (self.request_head, self.answer_tail, *bases.values())),
                self.timeout.eq(TIMEOUT_DEFAULT),
            ]

        # Counters.
        counters = {counter: Signal(DWORD_BITS, name=f"counter_{counter.name.lower()}") for counter in PcieCounter}
        for counter, total in counters.items():
            with m.If(self.counts[counter]):
                m.d.sync += total.eq(total + 1)

        # Reads.
        readable = {
            PcieRegister.MAGIC: MAGIC,
            PcieRegister.VERSION: MAP_VERSION,
            PcieRegister.CONTROL: Cat(enable, dma, self.interrupts, resetting),
            PcieRegister.STATUS: self.status,
            PcieRegister.REQUEST_HEAD: self.request_head,
            PcieRegister.REQUEST_TAIL: self.request_tail,
            PcieRegister.ANSWER_HEAD: self.answer_head,
            PcieRegister.ANSWER_TAIL: self.answer_tail,
            PcieRegister.TIMEOUT: self.timeout,
            PcieRegister.LINK: self.configuration.as_value(),
            **{place: base[: DWORD_BITS - 2] << 2 for place, base in bases.items()},
            **{place + 1: base[DWORD_BITS - 2 :] for place, base in bases.items()},
            **{PcieRegister.COUNTERS + counter: total for counter, total in counters.items()},
        }
        value, is_answer = Signal(DWORD_BITS), Signal()
        m.d.sync += [value.eq(0), is_answer.eq(self.address >> PAGE_BITS == ANSWER_PAGE), self.data.eq(value)]
        with m.Switch(self.address):
            for place, content in readable.items():
                with m.Case(place):
                    m.d.sync += value.eq(content)
        with m.If(is_answer):
            m.d.sync += self.data.eq(self.answer)
        return m


def _has(word, flag: Control):
    return word[flag.bit_length() - 1]
