"""From requests of any length to runs in one row."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .ports import WordAddress, order_layout, run_layout


class Runs(wiring.Component):
    """Cuts orders where a row ends, and lets a run that reads go when there is room for all its words.

    One run per 5 cycles while there is room, 6 if it begins an order, in the order of orders.

    Parameters
    ----------
    address: the memory's words. depth: words that fit behind the controller, at least 4 rows' worth.

    Members
    -------
    orders: In(stream of order_layout). runs: Out(stream of run_layout).
    arrived: In(1), a pulse per word that was read. held: In(range(depth + 1)), words that arrived and were not taken,
        at most 2 cycles late in what it does not yet count.
    """

    def __init__(self, *, address: WordAddress, depth: int) -> None:
        if depth < 4 * address.row_words:
            raise ValueError(f"depth must be at least 4 rows of {address.row_words} words, not {depth}")
        self.address = address
        self.depth = depth
        super().__init__(
            {
                "orders": In(stream.Signature(order_layout(address))),
                "runs": Out(stream.Signature(run_layout(address))),
                "arrived": In(1),
                "held": In(range(depth + 1)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        address, run = self.address, self.runs.payload
        first, left = Signal(address.bits), Signal(address.count_bits)
        column = first[: address.column_bits]
        write = Signal()
        words, room, fits = Signal(range(address.row_words + 1)), Signal(range(self.depth + 1)), Signal()

        # What was asked for and is not in `held` yet, for as long as that may be late.
        coming, granted = Signal(range(self.depth + 1)), Signal()
        late = Signal(2)
        m.d.sync += [
            late.eq((self.arrived << 1) | late[1]),
            coming.eq(coming + Mux(granted, words, 0) - late[0]),
            room.eq(self.depth - coming - self.held),
            # An offer stands, though `room` may dip when a word is counted in both `coming` and `held`.
            fits.eq(write | (room >= words) | self.runs.valid),
        ]
        m.d.comb += [
            run.write.eq(write),
            run.column.eq(column),
            run.bank.eq(first[address.column_bits :]),
            run.row.eq(first[address.column_bits + address.bank_bits :]),
            run.count.eq(words - 1),
        ]
        with m.FSM():
            with m.State("TAKE"):
                m.d.comb += self.orders.ready.eq(1)
                order = self.orders.payload
                m.d.sync += [write.eq(order.write), first.eq(order.request.first), left.eq(order.request.words)]
                with m.If(self.orders.valid):
                    m.next = "CUT"
            with m.State("CUT"):
                to_end = Signal(range(address.row_words + 1))
                m.d.sync += to_end.eq(address.row_words - column)
                m.next = "COUNT"
            with m.State("COUNT"):
                m.d.sync += words.eq(Mux(left > to_end, to_end, left))
                m.next = "WAIT"
            with m.State("WAIT"):
                # `fits` is of `words` a cycle later.
                m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += self.runs.valid.eq(fits)
                with m.If(self.runs.valid & self.runs.ready):
                    m.next = "ADVANCE"
            with m.State("ADVANCE"):
                m.d.comb += granted.eq(~write)
                m.d.sync += [
                    left.eq(left - words),
                    column.eq(0),
                    first[address.column_bits :].eq(first[address.column_bits :] + 1),
                ]
                m.next = "CUT"
                with m.If(left == words):
                    m.next = "TAKE"
        return m
