"""EventTeller against ternlight.packets.Event, with a memory of tokens behind it."""

from __future__ import annotations

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge
from cocotb.utils import get_sim_time

from ternlight.abi import EVENT_TOKENS, TOKEN_BITS, Finish
from ternlight.packets import Event
from ternlight_hw.event_teller import EVENT, EventTeller
from ternlight_sim.bench import StreamSink, StreamSource, parameters, rng, simulate, start

LAST = 1 << 32
CLOCK_NS = 10


def token_at(index: int) -> int:
    """What the memory holds: another token at each of neighbouring places."""
    return (index * 40503 ^ index >> 16) & (1 << TOKEN_BITS) - 1


def random_event(random, count: int, first: int) -> Event:
    slot, tag = (int(value) for value in random.integers(256, size=2))
    tokens = tuple(token_at(first + place) for place in range(count))
    return Event(slot, tag, Finish(int(random.integers(len(Finish)))), first, tokens)


def encode(event: Event) -> int:
    """The event as the teller takes it: without the tokens."""
    fields = {"slot": event.slot, "tag": event.tag, "finish": event.finish, "first": event.first}
    return EVENT.const(fields | {"count": len(event.tokens)}).as_value().value


async def remember(dut) -> None:
    """The token at the index of two cycles before."""
    before = 0
    while True:
        await RisingEdge(dut.clk)
        index = int(dut.index.value)
        await FallingEdge(dut.clk)
        dut.token.value = token_at(before)
        before = index


async def watch(dut) -> None:
    """An event is taken in the cycle after its last word, and in no other."""
    word = 0
    while True:
        await RisingEdge(dut.clk)
        assert bool(int(dut.event__valid.value) and int(dut.event__ready.value)) == bool(word)
        word = int(dut.words__valid.value) and int(dut.words__ready.value) and int(dut.words__payload.value) & LAST


@cocotb.test()
async def bench_events(dut):
    random, stall = rng(), parameters()["stall"]
    counts = [0, 1, 2, 3, EVENT_TOKENS - 1, EVENT_TOKENS, 0, 0, *map(int, random.integers(EVENT_TOKENS + 1, size=60))]
    events = [
        random_event(random, count, int(random.choice([0, 1, (1 << 32) - count - 1, int(random.integers(1 << 31))])))
        for count in counts
    ]
    expected = [
        word | (LAST if at == len(event.words()) - 1 else 0)
        for event in events
        for at, word in enumerate(event.words())
    ]
    source, sink = StreamSource(dut, "event", stall=stall, seed=1), StreamSink(dut, "words", stall=stall, seed=2)
    await start(dut)
    for task in (remember(dut), watch(dut)):
        cocotb.start_soon(task)
    reception = cocotb.start_soon(sink.receive(len(expected)))
    for event in events:
        begin = get_sim_time("ns")
        await source.send([encode(event)])
        if not stall:
            assert get_sim_time("ns") - begin == CLOCK_NS * (4 + 3 * len(event.tokens))
    assert await reception == expected


@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_events(stall):
    simulate(EventTeller(), __file__, bench="bench_events", parameters={"stall": stall, "seed": 3})
