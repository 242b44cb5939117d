"""Wide counters in a memory, where a register with an adder for each of them would be large."""

from __future__ import annotations

from amaranth import Array, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2


class Counters(wiring.Component):
    """total[i] = number of cycles in which count[i] was set since the reset, modulo 2**bits.

    Each counter has a few low bits that count at once. The totals stand in a memory and are brought up to date one
    after the other, one per cycle: low bits that are smaller than at the visit before have carried.

    A total is told between 1 and `amount` cycles after `wanted`, and counts the cycles up to the third before `told`.

    Parameters: amount, of counters, at least 2; bits, of a total, more than those of `amount`.
    Members:
        count (in): one bit per counter.
        wanted (in), index (in): tell the total of this counter; both hold still until `told`.
        told (out): one cycle. total (out): of the latest counter told.
    """

    def __init__(self, *, amount: int, bits: int = 64) -> None:
        if amount < 2:
            raise ValueError(f"amount must be at least 2, not {amount}")
        # A counter advances by `amount` at most from visit to visit.
        self.low_bits = ceil_log2(amount + 1)
        if bits <= self.low_bits:
            raise ValueError(f"bits must be more than {self.low_bits} for {amount} counters, not {bits}")
        self.amount = amount
        self.bits = bits
        super().__init__(
            {
                "count": In(unsigned(amount)),
                "wanted": In(1),
                "index": In(range(amount)),
                "told": Out(1),
                "total": Out(unsigned(bits)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.totals = totals = Memory(shape=unsigned(self.bits), depth=self.amount, init=[])
        read, write = totals.read_port(domain="comb"), totals.write_port()

        lows = [Signal(self.low_bits, name=f"low_{counter}") for counter in range(self.amount)]
        for low, advances in zip(lows, self.count, strict=True):
            with m.If(advances):
                m.d.sync += low.eq(low + 1)

        # First cycle: the total is read. After a reset the memory still holds those of before: a first round clears it.
        visited = Signal(range(self.amount))
        cleared = Signal()
        low = Array(lows)[visited]
        known = Signal(self.bits)
        known_low, carry = Signal(self.low_bits), Signal()
        m.d.comb += read.addr.eq(visited)
        m.d.sync += [
            visited.eq(visited + 1),
            known.eq(Mux(cleared, read.data, 0)),
            known_low.eq(low),
            carry.eq(cleared & (low < read.data[: self.low_bits])),
        ]
        with m.If(visited == self.amount - 1):
            m.d.sync += [visited.eq(0), cleared.eq(1)]

        # Second cycle: it is written.
        updated = Signal(range(self.amount), init=self.amount - 1)
        total = Cat(known_low, (known[self.low_bits :] + carry)[: self.bits - self.low_bits])
        m.d.sync += [updated.eq(visited), self.told.eq(0)]
        m.d.comb += [write.addr.eq(updated), write.data.eq(total), write.en.eq(1)]
        with m.If(self.wanted & ~self.told & (updated == self.index)):
            m.d.sync += [self.told.eq(1), self.total.eq(total)]
        return m
