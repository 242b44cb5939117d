"""The ports between the parts of the engine."""

from __future__ import annotations

from amaranth import unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import Out
from amaranth.utils import ceil_log2

from ternlight.formats import ACTIVATION_BITS
from ternlight.geometry import STORE_BLOCK_BITS, Geometry, ceil_div


def buffers(geometry: Geometry) -> int:
    """Activation buffers of all contexts."""
    return 2 * geometry.contexts


def chunk_address_bits(geometry: Geometry) -> int:
    """Address bits of a chunk in the memory of all activation buffers, one behind the other."""
    return ceil_log2(buffers(geometry) * geometry.buffer_chunks)


class StepPort(wiring.Signature):
    """A word of the weight store on its way through the lanes; `valid` qualifies the rest.

    address: of the word.
    chunk: address of the activations that it multiplies.
    first, last: of its row group: clears the accumulators, lets them out.
    end: with `last`, the index of the last beat of V results that is wanted.
    final: with `last`, that beat is the last of its command.
    embed: an embedding's row instead, a group of one word and one beat. cell: its place in the word;
    header: the row's scale, as element 0, instead of values.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "address": Out(unsigned(ceil_log2(geometry.store_words))),
                "chunk": Out(unsigned(chunk_address_bits(geometry))),
                "first": Out(1),
                "last": Out(1),
                "end": Out(range(geometry.group_beats)),
                "final": Out(1),
                "embed": Out(1),
                "cell": Out(unsigned(ceil_log2(geometry.cells))),
                "header": Out(1),
            }
        )


class ActivationWrite(wiring.Signature):
    """Writes V activations into part k of chunk `address` when bit k of `parts` is set."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(
            {
                "parts": Out(geometry.inputs // geometry.vector),
                "address": Out(unsigned(chunk_address_bits(geometry))),
                "values": Out(ACTIVATION_BITS * geometry.vector),
            }
        )


class PairWrite(wiring.Signature):
    """Writes blocks 2 * pair and 2 * pair + 1 of the word at `address` when `enable` is set.

    Of each block's 18 bits the lower 16 are those that can be read one by one.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(
            {
                "enable": Out(1),
                "address": Out(unsigned(ceil_log2(geometry.store_words))),
                "pair": Out(unsigned(ceil_log2(ceil_div(geometry.store_blocks, 2)))),
                "data": Out(2 * STORE_BLOCK_BITS),
            }
        )
