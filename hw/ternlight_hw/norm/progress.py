"""How far the latest writer of a vector memory has come, so that readers can follow it word by word."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..layouts import CONTEXT_BITS


class WordQuery(wiring.Signature):
    """May word `index` of an operation in `context` be read in the next cycle?"""

    def __init__(self, *, words: int) -> None:
        super().__init__({"context": Out(CONTEXT_BITS), "index": Out(range(words)), "readable": In(1)})


class Progress(wiring.Component):
    """Counts, in each context, the words that the operation in progress has written; the words come in order.

    Word `index` of a reader is that word of the writer: readable in the cycle after its write, and when no writer is in
    progress. A reader must ask word after word: a word is refused when as many as its index are written.

    Parameters
    ----------
    contexts, words: contexts, and words of each.
    queries: readers that ask at the same time.

    Members
    -------
    begin, begin_context: an operation begins that writes the memory, in.
    write, write_context, last: it writes its next word in this cycle, the last one, in.
    queries: WordQuery, in.
    writing: one bit per context: a writer is in progress, out.
    """

    def __init__(self, *, contexts: int, words: int, queries: int) -> None:
        self.contexts = contexts
        self.words = words
        super().__init__(
            {
                "begin": In(1),
                "begin_context": In(CONTEXT_BITS),
                "write": In(1),
                "write_context": In(CONTEXT_BITS),
                "last": In(1),
                "queries": In(WordQuery(words=words)).array(queries),
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
        for query in self.queries:
            refused = Signal(self.contexts)
            m.d.comb += [
                *(refused[context].eq(count == query.index) for context, count in enumerate(counts)),
                query.readable.eq(
                    ~(refused & self.writing).bit_select(query.context, 1)
                    | (self.write & (self.write_context == query.context))
                ),
            ]
        return m
