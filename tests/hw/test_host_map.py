"""HostMap: every window's words, first, last and beyond, against a memory map of plain dictionaries."""

from __future__ import annotations

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight.abi import (
    WINDOW_SHIFT,
    Window,
    address,
    column_bits,
    window_address,
    window_columns,
    window_words,
)
from ternlight.geometry import Geometry
from ternlight_hw.host_map import LOADED, SESSION_WINDOWS, HostMap
from ternlight_hw.registers import OFFSET_BITS
from ternlight_hw.sessions import Sessions
from ternlight_sim.bench import pack, parameters, rng, simulate, start

PATIENCE = 50


class Memories:
    """What stands behind the ports, with random delays; every access that arrives is recorded in `seen`."""

    def __init__(self, dut, geometry, random):
        self.dut, self.geometry, self.random = dut, geometry, random
        self.columns = window_columns(geometry)
        self.states = {}  # words of the window by number
        self.seen = []
        self.answer = 0
        self.refuse = False
        self.wait = {"registers": 0, "sessions": 0}
        self.hold = 0
        self.row = self.asked = None
        self.held = False

    def drive(self):
        dut = self.dut
        dut.hold.value = self.hold > 0
        self.held = self.hold > 0
        self.hold = max(0, self.hold - 1)
        for name in self.wait:
            port = getattr(dut, f"{name}__ack")
            port.value = bool(getattr(dut, f"{name}__enable").value) and self.wait[name] == 0
            getattr(dut, f"{name}__read_data").value = self.answer
        dut.registers__error.value = self.refuse
        columns = self.columns[Window.STATES]
        # Like a registered memory: what the last but one enabled cycle asked for.
        words = (
            [self.states.get(self.row * columns + column, 0) for column in range(columns)]
            if self.row is not None
            else []
        )
        dut.states_read__data.value = pack(words, 32)

    def sample(self):
        dut = self.dut
        for name in self.wait:
            if getattr(dut, f"{name}__enable").value:
                if self.wait[name] == 0:
                    offset = int(getattr(dut, f"{name}__offset").value)
                    window = Window(int(dut.sessions__window.value)) if name == "sessions" else Window.REGISTERS
                    write = int(getattr(dut, f"{name}__write").value)
                    data = int(getattr(dut, f"{name}__write_data").value)
                    self.seen.append((window, offset, data if write else None))
                self.wait[name] -= 1
        for window in LOADED:
            name = window.name.lower()
            if getattr(dut, f"{name}__enable").value:
                assert not self.held
                row = int(getattr(dut, f"{name}__address").value)
                column = int(getattr(dut, f"{name}__column").value)
                number = row * self.columns[window] + column
                data = int(getattr(dut, f"{name}__data").value)
                self.seen.append((window, number, data))
                if window == Window.STATES:
                    self.states[number] = data
        if dut.states_read__enable.value:
            assert not self.held
            self.row, self.asked = self.asked, int(dut.states_read__address.value)


class Host:
    """Accesses to the bus."""

    def __init__(self, dut, memories):
        self.dut, self.memories = dut, memories

    async def access(self, target, word=None):
        """Read, or write a word; (data, error, cycles, what arrived behind the map)."""
        dut, memories = self.dut, self.memories
        memories.seen = []
        dut.bus__enable.value, dut.bus__address.value = 1, target
        dut.bus__write.value, dut.bus__write_data.value = word is not None, word or 0
        for cycles in range(1, PATIENCE):
            # Acknowledgements depend on enables of the same cycle.
            memories.drive()
            await RisingEdge(dut.clk)
            memories.sample()
            acknowledged = bool(dut.bus__ack.value)
            data, error = int(dut.bus__read_data.value), int(dut.bus__error.value)
            await FallingEdge(dut.clk)
            if acknowledged:
                dut.bus__enable.value = 0
                return data, error, cycles, memories.seen
        raise AssertionError(f"no acknowledgement of {target:#x}")

    async def refused(self, target, word=None):
        """An address that does not exist: an error in the third cycle, and nothing arrives anywhere."""
        _, error, cycles, seen = await self.access(target, word)
        assert (error, cycles, seen) == (1, 3, []), hex(target)


@cocotb.test()
async def bench_map(dut):
    geometry, random = Geometry(**parameters()["geometry"]), rng()
    for name in ("registers", "sessions"):
        getattr(dut, f"{name}__ack").value = 0
    dut.bus__enable.value = dut.hold.value = dut.registers__error.value = 0
    await start(dut)
    memories = Memories(dut, geometry, random)
    host = Host(dut, memories)
    words, columns = window_words(geometry), window_columns(geometry)

    def word():
        return int(random.integers(1 << 32))

    def numbers(window):
        """The first and the last words, those around a change of row, and others."""
        count, wide = words[window], columns[window]
        chosen = {0, 1, wide - 1, wide, 2 * wide - 1, 2 * wide, count - wide - 1, count - wide, count - 2, count - 1}
        chosen |= {int(number) for number in random.integers(count, size=20)}
        return sorted(number for number in chosen if 0 <= number < count)

    # Registers: offsets as they are, data and errors as they come.
    for _ in range(60):
        offset = int(random.choice([0, (1 << OFFSET_BITS) - 1, random.integers(1 << OFFSET_BITS)]))
        memories.answer, memories.refuse = word(), bool(random.integers(2))
        memories.wait["registers"] = wait = int(random.integers(4))
        memories.hold = int(random.choice([0, PATIENCE]))
        value = word() if random.integers(2) else None
        data, error, cycles, seen = await host.access(address(Window.REGISTERS, offset), value)
        assert (data, error, cycles) == (memories.answer, memories.refuse, wait + 4)
        assert seen == [(Window.REGISTERS, offset, value)]
    memories.refuse = True
    await host.refused(address(Window.REGISTERS, 1 << OFFSET_BITS))
    await host.refused(address(Window.REGISTERS, (1 << WINDOW_SHIFT) - 1), word())

    # Session windows, whatever `hold` says.
    for window in SESSION_WINDOWS:
        for number in numbers(window):
            for value in (None, word()):
                memories.answer, wait = word(), int(random.integers(4))
                memories.wait["sessions"] = wait
                memories.hold = int(random.choice([0, PATIENCE]))
                data, error, cycles, seen = await host.access(window_address(window, number, geometry), value)
                assert (error, cycles) == (0, wait + 4)
                assert value is not None or data == memories.answer
                assert seen == [(window, number, value)]

    # Wide memories wait while a token is in progress.
    for window in LOADED:
        memories.hold = 0
        for number in numbers(window):
            target, value = window_address(window, number, geometry), word()
            assert (
                target & (1 << WINDOW_SHIFT) - 1
                == number // columns[window] << column_bits(columns[window]) | number % columns[window]
            )
            memories.hold = hold = int(random.choice([0, 0, 1, 2, 20]))
            _, error, cycles, seen = await host.access(target, value)
            assert not error
            assert cycles == max(4, hold + 2)
            assert seen == [(window, number, value)]
            if window == Window.STATES:
                memories.hold = hold = int(random.choice([0, 0, 1, 2, 20]))
                data, error, cycles, seen = await host.access(target)
                assert (data, error, seen) == (value, 0, [])
                assert cycles == max(6, hold + 4)
            else:
                memories.hold = 0
                await host.refused(target)
    for _ in range(40):
        number = int(random.integers(words[Window.STATES]))
        data, error, _, _ = await host.access(window_address(Window.STATES, number, geometry))
        assert (data, error) == (memories.states.get(number, 0), 0)

    # Beyond the last row, in the gap of a row, and where no window is; memory addresses do not wrap.
    for window in (*LOADED, *SESSION_WINDOWS):
        bits, rows = column_bits(columns[window]), words[window] // columns[window]
        outside = {rows << bits, 1 << WINDOW_SHIFT - 1, (1 << WINDOW_SHIFT) - 1}
        outside |= {1 << bit for bit in range(WINDOW_SHIFT) if 1 << bit >= rows << bits}
        outside |= {int(random.integers(rows)) << bits | column for column in range(columns[window], 1 << bits)}
        for offset in outside:
            await host.refused(address(window, offset))
            await host.refused(address(window, offset), word())
    for window in range(len(Window), 1 << 32 - WINDOW_SHIFT):
        for value in (None, word()):
            await host.refused(window << WINDOW_SHIFT, value)
            await host.refused(window << WINDOW_SHIFT | int(random.integers(1 << WINDOW_SHIFT)), value)


SIZES = [
    {"prompt": 16, "ring": 16},
    # Rows of one word of gains and states; rows of weights with a gap; slots and depths that are no powers of two.
    {
        "inputs": 12,
        "rows": 28,
        "activations": 60,
        "vector": 4,
        "slots": 3,
        "prompt": 64,
        "ring": 16,
        "program_words": 37,
        "store_words": 75,
        "gain_words": 33,
        "state_words": 30,
    },
    {"inputs": 12, "rows": 12, "vector": 12, "activations": 24, "slots": 1, "state_words": 5, "gain_words": 9},
]


@pytest.mark.parametrize("sizes", SIZES)
def test_host_map(sizes):
    geometry = Geometry(**sizes)
    simulate(
        HostMap(geometry=geometry, session_offset_bits=Sessions(geometry=geometry).offset_bits),
        __file__,
        bench="bench_map",
        parameters={"geometry": sizes, "seed": 9},
    )
