"""How far the latest writer of a vector memory has come, so that readers can follow it word by word."""

from __future__ import annotations

from amaranth import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..layouts import CONTEXT_BITS


class WordQuery(wiring.Signature):
    """May word `index` of an operation in `context` be read in the next cycle?

    A reader that was refused waits for `written`: a word of `waiting_context` is written in this cycle.
    """

    def __init__(self, *, words: int) -> None:
        super().__init__(
            {
                "context": Out(CONTEXT_BITS),
                "index": Out(range(words)),
                "readable": In(1),
                "waiting_context": Out(CONTEXT_BITS),
                "written": In(1),
            }
        )


def of_context(values: Value, context: Value) -> Value:
    """The bit of a context."""
    return values.bit_select(context[: ceil_log2(len(values))], 1)


class Progress(wiring.Component):
    """Counts, in each context, the words that the operation in progress has written; the words come in order.

    Word `index` of a reader is that word of the writer: readable in the cycle after its write, and when no writer is in
    progress. A reader must ask word after word: a word is refused when as many as its index are written.

    Parameters
    ----------
    contexts, words: contexts, and words of each.

    Members
    -------
    begin, begin_context: an operation begins that writes the memory, in. Readers see it from the next cycle on.
    write, write_context, last: it writes its next word in this cycle, the last one, in.
    query: WordQuery, in.
    writing: one bit per context: a writer is in progress, out.
    """

    def __init__(self, *, contexts: int, words: int) -> None:
        self.contexts = contexts
        self.words = words
        super().__init__(
            {
                "begin": In(1),
                "begin_context": In(CONTEXT_BITS),
                "write": In(1),
                "write_context": In(CONTEXT_BITS),
                "last": In(1),
                "query": In(WordQuery(words=words)),
                "writing": Out(contexts),
            }
        )

    def elaborate(self, platform):
        m = Module()
        counts = [Signal(range(self.words + 1), name=f"count_{context}") for context in range(self.contexts)]
        for context, count in enumerate(counts):
            with m.If(self.begin & (self.begin_context == context)):
                m.d.sync += [count.eq(0), self.writing[context].eq(1)]
            with m.Elif(self.write & (self.write_context == context)):
                m.d.sync += count.eq(count + 1)
                with m.If(self.last):
                    m.d.sync += self.writing[context].eq(0)
        query = self.query
        written = self.write.replicate(self.contexts) & (1 << self.write_context)[: self.contexts]
        refused = Cat(count == query.index for count in counts) & self.writing & ~written
        m.d.comb += [
            query.readable.eq(~of_context(refused, query.context)),
            query.written.eq(of_context(written, query.waiting_context)),
        ]
        return m
