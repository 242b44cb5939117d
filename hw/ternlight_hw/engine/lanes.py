"""The lanes with their memories: weight words meet activations, and row groups come out."""

from __future__ import annotations

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from ternlight.geometry import Geometry
from ternlight.store_word import SEGMENT

from ..layouts import result_layout
from ..pipeline import Flow
from ..primitives import is_ecp5
from .block_store import embedding_latency
from .plain import PlainLanes
from .ports import ActivationWrite, PairWrite, StepPort
from .systolic import SystolicLanes

FETCH = 3
"""Cycles from a step to its decoded trits: address, block RAM, output register, decoder."""


def lanes_latency(geometry: Geometry) -> int:
    """Cycles from a group's last step to its first beat, on every target.

    Behind the fetch: the lanes of a segment, of which the first two start together; a tree of adders over the
    segments; and the accumulator.
    """
    return FETCH + SEGMENT - 1 + ceil_log2(geometry.inputs // SEGMENT) + 1


class Lanes(wiring.Component):
    """R rows of C lanes that accumulate over the chunks of a row group; no multiplier.

    row r of a group = sum over its steps, first to last, of sum_c trits[r, c] * chunk[c], for activations of at least
    -127. An accumulator that a product overflows wraps; the compiler refuses such products.

    Beat b of a group is valid `latency` + b cycles after its last step, up to beat `end`. Throughput is one step per
    cycle, and one group per group_beats cycles. An embedding's only beat takes `latency` + `embed_gap` cycles.
    A chunk must be written in the cycle of its step or before, and may be overwritten arrivals.CLAIM_LEAD cycles later.

    Parameters: geometry.
    Members: step (In, StepPort); write (In, ActivationWrite); load (In, PairWrite), while no step is under way;
    sums (Out, Flow of result_layout).
    """

    def __init__(self, *, geometry: Geometry) -> None:
        self.geometry = geometry
        self.latency = lanes_latency(geometry)
        self.embed_gap = max(0, embedding_latency(geometry) - (self.latency - 1))
        super().__init__(
            {
                "step": In(StepPort(geometry)),
                "write": In(ActivationWrite(geometry)),
                "load": In(PairWrite(geometry)),
                "sums": Out(Flow(result_layout(geometry))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        kind = SystolicLanes if is_ecp5(platform) else PlainLanes
        m.submodules.lanes = lanes = kind(geometry=self.geometry, latency=self.latency, embed_gap=self.embed_gap)
        connect(m, flipped(self.step), lanes.step)
        connect(m, flipped(self.write), lanes.write)
        connect(m, flipped(self.load), lanes.load)
        connect(m, lanes.sums, flipped(self.sums))
        return m
