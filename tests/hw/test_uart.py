"""UartReceiver and UartTransmitter against a line that is sampled and driven bit by bit."""

from __future__ import annotations

from itertools import pairwise

import cocotb
import pytest
from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight_hw.uart import UartReceiver, UartTransmitter
from ternlight_sim.bench import StreamSource, parameters, rng, simulate, start

FRAME_BITS = 10


def frame(byte: int, stop: int = 1) -> list[int]:
    return [0, *(byte >> bit & 1 for bit in range(8)), stop]


class Loop(wiring.Component):
    """A transmitter whose line is a receiver's."""

    def __init__(self, *, divisor: int) -> None:
        self.divisor = divisor
        super().__init__({"data": In(stream.Signature(8)), "echo": Out(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.transmitter = transmitter = UartTransmitter(divisor=self.divisor)
        m.submodules.receiver = receiver = UartReceiver(divisor=self.divisor)
        connect(m, flipped(self.data), transmitter.data)
        connect(m, receiver.data, flipped(self.echo))
        m.d.comb += receiver.rx.eq(transmitter.tx)
        return m


async def collect(dut, name: str, received: list[tuple[int, int]]) -> None:
    """Append (cycle, byte) of every byte that is offered."""
    cycle = 0
    valid, payload = getattr(dut, f"{name}__valid"), getattr(dut, f"{name}__payload")
    while True:
        await RisingEdge(dut.clk)
        if int(valid.value):
            received.append((cycle, int(payload.value)))
        await FallingEdge(dut.clk)
        cycle += 1


@cocotb.test()
async def bench_transmitter(dut):
    divisor, count = parameters()["divisor"], 40
    random = rng()
    await start(dut)
    data = [0, 255, 0x55, 0xAA, *(int(byte) for byte in random.integers(256, size=count - 4))]
    source = StreamSource(dut, "data")
    assert int(dut.tx.value) == 1
    cocotb.start_soon(source.send(data))
    await FallingEdge(dut.clk)
    # Taken at the first edge: the line must now carry every bit for exactly `divisor` cycles, without a gap.
    for byte in data:
        for bit in frame(byte):
            for _ in range(divisor):
                assert int(dut.tx.value) == bit
                await FallingEdge(dut.clk)
    for _ in range(2 * divisor):
        assert int(dut.tx.value) == 1
        await FallingEdge(dut.clk)


@cocotb.test()
async def bench_receiver(dut):
    divisor = parameters()["divisor"]
    random = rng()
    dut.rx.value = 1
    await start(dut)
    received: list[tuple[int, int]] = []
    cocotb.start_soon(collect(dut, "data", received))
    cycle, ends, expected = 0, [], []

    async def drive(level: int, cycles: int) -> None:
        nonlocal cycle
        dut.rx.value = level
        for _ in range(cycles):
            await FallingEdge(dut.clk)
        cycle += cycles

    for number in range(120):
        byte = int(random.integers(256))
        stop = 0 if number % 10 == 7 else 1
        if number % 10 == 3 and divisor > 3:  # shorter than half a bit: no start
            await drive(1, 2 * divisor)
            await drive(0, divisor // 2 - 1)
            await drive(1, 2 * divisor)
        for bit in frame(byte, stop):
            await drive(bit, divisor)
        if stop:
            expected.append(byte)
            ends.append(cycle)
        else:
            await drive(0, int(random.integers(30 * divisor)))
            await drive(1, 2 * divisor)
        if random.integers(4) == 0:
            await drive(1, int(random.integers(3 * divisor)))
    await drive(1, 4 * divisor)
    assert [byte for _, byte in received] == expected
    middle = divisor - divisor // 2  # from the sample to the end of the stop bit
    assert {at - end for (at, _), end in zip(received, ends, strict=True)} == {3 - middle}


@cocotb.test()
async def bench_receiver_tolerance(dut):
    """A sender whose bits are 4 % longer or shorter, back to back."""
    divisor = parameters()["divisor"]
    random = rng()
    dut.rx.value = 1
    await start(dut)
    received: list[tuple[int, int]] = []
    cocotb.start_soon(collect(dut, "data", received))
    data = [int(byte) for byte in random.integers(256, size=60)]
    for rate in (0.96, 1.04):
        time, cycle = 0.0, 0
        for byte in data:
            for bit in frame(byte):
                dut.rx.value = bit
                time += divisor * rate
                while cycle < time:
                    await FallingEdge(dut.clk)
                    cycle += 1
        for _ in range(3 * divisor):
            await FallingEdge(dut.clk)
    assert [byte for _, byte in received] == data * 2


@cocotb.test()
async def bench_loop(dut):
    divisor = parameters()["divisor"]
    random = rng()
    await start(dut)
    received: list[tuple[int, int]] = []
    cocotb.start_soon(collect(dut, "echo", received))
    data = [int(byte) for byte in random.integers(256, size=300)]
    await StreamSource(dut, "data").send(data)
    for _ in range(12 * divisor):
        await FallingEdge(dut.clk)
    assert [byte for _, byte in received] == data
    times = [at for at, _ in received]
    assert {after - before for before, after in pairwise(times)} == {FRAME_BITS * divisor}


@pytest.mark.parametrize("divisor", [3, 4, 7])
def test_transmitter(divisor):
    simulate(
        UartTransmitter(divisor=divisor),
        __file__,
        bench="bench_transmitter",
        parameters={"divisor": divisor, "seed": 1},
    )


@pytest.mark.parametrize("divisor", [3, 4, 9])
def test_receiver(divisor):
    simulate(
        UartReceiver(divisor=divisor), __file__, bench="bench_receiver", parameters={"divisor": divisor, "seed": 2}
    )


def test_receiver_tolerance():
    simulate(
        UartReceiver(divisor=16), __file__, bench="bench_receiver_tolerance", parameters={"divisor": 16, "seed": 3}
    )


@pytest.mark.parametrize("divisor", [3, 4])
def test_loop(divisor):
    simulate(Loop(divisor=divisor), __file__, bench="bench_loop", parameters={"divisor": divisor, "seed": 4})


@pytest.mark.parametrize("component", [UartReceiver, UartTransmitter])
@pytest.mark.parametrize("divisor", [2, 4.0])
def test_uart_refuses(component, divisor):
    with pytest.raises(ValueError, match=f"divisor must be an integer of at least 3 cycles per bit, not {divisor}"):
        component(divisor=divisor)
