"""The bus around a PCIe endpoint under test: cocotbext-pcie's root complex, and the hard block between it and a design.

The hard block has the configuration space; every other TLP passes to and from the design's streams of beats.
"""

from __future__ import annotations

import random
import struct
import warnings
from collections.abc import Callable
from typing import Any

import cocotb
from cocotb.queue import Queue
from cocotb.task import resume
from cocotb.triggers import Event, FallingEdge, First, RisingEdge, Timer
from cocotb.utils import get_sim_time

from ternlight.link.pcie.base import DmaMemory, PcieFunction
from ternlight.link.pcie.transport import MEMORY_WORDS
from ternlight.pcie_map import BAR_BYTES, CLASS_CODE, DEVICE_ID, VENDOR_ID, Link

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from cocotbext.pcie.core import Device, Endpoint, RootComplex
    from cocotbext.pcie.core.caps import MsiCapability
    from cocotbext.pcie.core.tlp import CplStatus, Tlp, TlpType
    from cocotbext.pcie.core.utils import PcieId

DWORD_BITS = 32
BOUNDARY = 64
"""Bytes: a root complex may cut completions at multiples of it."""


def dwords_of(tlp: Any) -> list[int]:
    """The words of a TLP as the streams carry them."""
    data = bytes(tlp.pack())
    return list(struct.unpack(f">{len(data) // 4}I", data))


def tlp_of(dwords: list[int]) -> Any:
    """The TLP that words are; raises if they are none."""
    return Tlp.unpack(struct.pack(f">{len(dwords)}I", *dwords))


class TlpStreams:
    """Drives the design's stream of received beats, and collects the sent ones.

    stall: the share of idle cycles on both; seed: of them.
    """

    def __init__(self, dut: Any, *, stall: float, seed: int, sent: Callable[[list[int]], None]) -> None:
        self.dut = dut
        self.stall = stall
        self.sent = sent
        self._random = random.Random(seed)
        self._queue: Queue[list[int]] = Queue()
        dut.receive__valid.value = 0
        dut.transmit__ready.value = 0
        cocotb.start_soon(self._drive())
        cocotb.start_soon(self._collect())

    def put(self, dwords: list[int]) -> None:
        """Send a TLP to the design, after those that wait."""
        self._queue.put_nowait(dwords)

    async def _drive(self) -> None:
        dut = self.dut
        while True:
            dwords = await self._queue.get()
            await FallingEdge(dut.clk)
            for at in range(0, len(dwords), 2):
                while self._random.random() < self.stall:
                    dut.receive__valid.value = 0
                    await FallingEdge(dut.clk)
                pair = dwords[at : at + 2]
                data = pair[0] | (pair[1] << DWORD_BITS if len(pair) == 2 else 0)
                keep, last = (3 if len(pair) == 2 else 1), int(at + 2 >= len(dwords))
                dut.receive__payload.value = data | keep << 2 * DWORD_BITS | last << 2 * DWORD_BITS + 2
                dut.receive__valid.value = 1
                while True:
                    await RisingEdge(dut.clk)
                    taken = int(dut.receive__ready.value)
                    await FallingEdge(dut.clk)
                    if taken:
                        break
            dut.receive__valid.value = 0

    async def _collect(self) -> None:
        dut = self.dut
        dwords: list[int] = []
        while True:
            if not int(dut.transmit__valid.value):
                await RisingEdge(dut.transmit__valid)
                await FallingEdge(dut.clk)
            ready = self._random.random() >= self.stall
            dut.transmit__ready.value = int(ready)
            await RisingEdge(dut.clk)
            if ready and int(dut.transmit__valid.value):
                beat = int(dut.transmit__payload.value)
                keep = beat >> 2 * DWORD_BITS & 3
                assert keep in (1, 3)
                dwords += [beat >> DWORD_BITS * place & 0xFFFFFFFF for place in range(keep.bit_length())]
                if beat >> 2 * DWORD_BITS + 2:
                    self.sent(dwords)
                    dwords = []
                else:
                    assert keep == 3
            await FallingEdge(dut.clk)


class HardBlock(Endpoint):  # type: ignore[misc]
    """The function's configuration space, its BAR 0 and its MSI; the design does the rest.

    sent: the TLPs that the design has sent, for checks; while not `delivers` they go no further. interrupts: MSIs.
    change: applied to the words of what the design receives; a test may damage them there.
    """

    def __init__(self, dut: Any, *, stall: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.dut = dut
        self.vendor_id, self.device_id, self.class_code = VENDOR_ID, DEVICE_ID, CLASS_CODE
        self.msi_cap = MsiCapability()
        self.msi_cap.msi_64bit_address_capable = 1
        self.register_capability(self.msi_cap)
        self.pcie_cap.max_payload_size_supported = 2
        self.configure_bar(0, BAR_BYTES)
        self.sent: list[Any] = []
        self.delivers = True
        self.change: Callable[[list[int]], list[int]] = lambda dwords: dwords
        self.interrupts = 0
        self._out: Queue[Any] = Queue()
        self.streams = TlpStreams(dut, stall=stall, seed=seed, sent=self._take)
        self._tell()
        dut.interrupt_done.value = 0
        cocotb.start_soon(self._forward())
        cocotb.start_soon(self._interrupt())

    async def handle_tlp(self, tlp: Any) -> None:
        if tlp.fmt_type in (TlpType.CFG_READ_0, TlpType.CFG_WRITE_0):
            await super().handle_tlp(tlp)
        else:
            tlp.release_fc()
            self.streams.put(self.change(dwords_of(tlp)))

    async def write_config_register(self, reg: int, data: int, mask: int) -> None:
        await super().write_config_register(reg, data, mask)
        self._tell()

    def _tell(self) -> None:
        """Show the design what is configured."""
        word = int(self.pcie_id) << Link.REQUESTER
        word |= self.pcie_cap.max_payload_size << Link.MAX_PAYLOAD
        word |= self.pcie_cap.max_read_request_size << Link.MAX_READ
        word |= int(self.bus_master_enable) << Link.MASTER | int(self.msi_cap.msi_enable) << Link.INTERRUPT
        self.dut.configuration.value = word

    def _take(self, dwords: list[int]) -> None:
        tlp = tlp_of(dwords)
        self.sent.append(tlp)
        self._check(tlp, dwords)
        if self.delivers:
            self._out.put_nowait(tlp)

    def _check(self, tlp: Any, dwords: list[int]) -> None:
        """What the specification demands of every TLP."""
        assert tlp.check()
        assert len(dwords) == tlp.get_size_dw()
        if tlp.is_completion():
            assert tlp.completer_id == self.pcie_id
            assert tlp.length <= 32 << self.pcie_cap.max_payload_size
            return
        assert self.bus_master_enable
        assert tlp.requester_id == self.pcie_id
        assert (tlp.first_be, tlp.last_be) == (15, 15 if tlp.length > 1 else 0)
        assert (tlp.address >= 1 << 32) == (tlp.fmt in (1, 3))
        code = self.pcie_cap.max_payload_size if tlp.has_data() else self.pcie_cap.max_read_request_size
        assert 1 <= tlp.length <= 32 << code
        if not tlp.has_data():
            assert tlp.tag < 32

    async def _forward(self) -> None:
        while True:
            await self.send(await self._out.get())

    async def _interrupt(self) -> None:
        dut = self.dut
        while True:
            if not int(dut.interrupt.value):
                await RisingEdge(dut.interrupt)
            while not self._out.empty():
                await FallingEdge(dut.clk)
            self.interrupts += 1
            await self.msi_cap.issue_msi_interrupt(0)
            await FallingEdge(dut.clk)
            dut.interrupt_done.value = 1
            await FallingEdge(dut.clk)
            dut.interrupt_done.value = 0


class Bus:
    """A root complex with the design as its one device, enumerated.

    stall: on the design's streams. cuts: completions of the design's reads are cut at random and come in disorder.
    answer: may replace or drop the completions of a read: called with the TLP and its completions.
    """

    def __init__(self, dut: Any, *, stall: float = 0.0, seed: int = 0, cuts: bool = False) -> None:
        self.dut = dut
        self.root = _Root(random.Random(seed) if cuts else None)
        self.block = HardBlock(dut, stall=stall, seed=seed)
        self.root.make_port().connect(Device(self.block))
        self.interrupt = Event()

    async def enumerate(self) -> None:
        """Find the function, give it addresses, and enable memory, bus mastering and MSI."""
        await self.root.enumerate()
        self.function = self.root.find_device(self.block.pcie_id)
        await self.function.enable_device()
        await self.function.set_master()
        await self.function.alloc_irq_vectors(1, 1)
        self.function.request_irq(0, self._interrupted)
        self.bar = self.function.bar_addr[0]

    def memory(self, size: int, *, high: bool = False) -> tuple[int, memoryview]:
        """Memory of the root complex: its address, above 4 GiB if wanted, and its bytes."""
        pool = self.root.high_pool if high else self.root.mem_pool
        region = pool.alloc_region(size)
        return region.get_absolute_address(0), memoryview(region.mem)

    async def limit(self, *, payload: int, read: int) -> None:
        """Set the maximum payload of both sides and the maximum read request: 128 bytes << their codes."""
        self.root.max_payload_size = payload
        await self.function.set_mps(payload)
        await self.function.set_readrq(read)

    async def read(self, offset: int, count: int = 1) -> list[int]:
        """Words of the BAR, one read each."""
        words = []
        for at in range(count):
            words.append(await self.root.mem_read_dword(self.bar + offset + 4 * at, timeout=100_000))
        return words

    async def write(self, offset: int, words: list[int]) -> None:
        """Write words of the BAR, one TLP each."""
        for at, word in enumerate(words):
            await self.root.mem_write_dword(self.bar + offset + 4 * at, word)

    async def wait(self, nanoseconds: float) -> None:
        """Until the next interrupt, or so long."""
        await First(self.interrupt.wait(), Timer(max(1, round(nanoseconds)), "ns"))
        self.interrupt.clear()

    async def _interrupted(self) -> None:
        self.interrupt.set()


class BusFunction(PcieFunction):
    """The function on a simulated bus, for a host that runs in a thread of its own (cocotb.task.bridge).

    SECOND_NS nanoseconds of the simulation are a second for the host.
    memory: with DMA; high: above 4 GiB; offset: of the rings from the start of a page.
    """

    SECOND_NS = 1_000_000

    def __init__(self, bus: Bus, *, dma: bool, high: bool = False, offset: int = 0) -> None:
        self.name = "pcie:simulated"
        self.bus = bus
        if dma:
            size = MEMORY_WORDS * 4
            address, data = bus.memory(size + offset, high=high)
            self.memory = DmaMemory(address + offset, data[offset : offset + size].cast("I"))

    def clock(self) -> float:
        """The simulation's time in seconds of the host."""
        return float(get_sim_time("ns")) / self.SECOND_NS

    def read(self, offset: int, count: int = 1) -> list[int]:
        words: list[int] = resume(self.bus.read)(offset, count)
        return words

    def write(self, offset: int, words: list[int]) -> None:
        resume(self.bus.write)(offset, words)

    def wait(self, timeout: float) -> None:
        resume(self.bus.wait)(timeout * self.SECOND_NS)

    def close(self) -> None:
        pass


class _Root(RootComplex):  # type: ignore[misc]
    """A root complex that may answer reads in every legal way, and, where a test says so, in illegal ones."""

    def __init__(self, disorder: random.Random | None) -> None:
        super().__init__()
        self.disorder = disorder
        self.answer: Callable[[Any, list[Any]], list[Any]] = lambda _, completions: completions
        self.high_pool = self.mem_address_space.create_pool(0x12_3400_0000, 1 << 24)

    async def handle_mem_read_tlp(self, tlp: Any) -> None:
        if not self.mem_address_space.find_regions(tlp.address, tlp.length * 4):
            completions = [Tlp.create_ur_completion_for_tlp(tlp, PcieId(0, 0, 0))]
        else:
            completions = self._completions(tlp, await self.mem_address_space.read(tlp.address, tlp.length * 4))
        cocotb.start_soon(self._reply(self.answer(tlp, completions)))

    def _completions(self, tlp: Any, data: bytes) -> list[Any]:
        completions = []
        at = 0
        while at < len(data):
            completion = Tlp.create_completion_data_for_tlp(tlp, PcieId(0, 0, 0))
            address = tlp.address + at
            cuts = [*range(BOUNDARY - address % BOUNDARY, len(data) - at, BOUNDARY), len(data) - at]
            legal = [cut for cut in cuts if cut <= 128 << self.max_payload_size]
            size = legal[-1] if self.disorder is None else self.disorder.choice(legal)
            completion.byte_count = len(data) - at
            completion.lower_address = address & 0x7F
            completion.set_data(data[at : at + size])
            completions.append(completion)
            at += size
        return completions

    async def _reply(self, completions: list[Any]) -> None:
        for completion in completions:
            if self.disorder is not None:
                await Timer(self.disorder.randrange(1, 1500), "ns")
            await self.send(completion)


__all__ = [
    "Bus",
    "BusFunction",
    "CplStatus",
    "HardBlock",
    "PcieId",
    "Tlp",
    "TlpStreams",
    "TlpType",
    "dwords_of",
    "tlp_of",
]
