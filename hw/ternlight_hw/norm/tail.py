"""The control of the stages from OPERANDS to TERM."""

from __future__ import annotations

from itertools import pairwise

from amaranth import Cat, Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..pipeline import Flow
from .beat import EXCESS_STEPS, OPERAND_BEAT, TAIL


class Tail(wiring.Component):
    """Takes a beat in every cycle; a cycle later it is in OPERANDS.

    Parameters
    ----------
    wide: there is a stage PARTIALS.

    Members
    -------
    narrowed, launched: Flow of OPERAND_BEAT, in: of STAT and QUANT, and of EMBED and RESID; never both.
    lanes: the control of the lanes (TAIL), out. factor: of the beat in OPERANDS, out.
    next_product, total, term: Flow of OPERAND_BEAT: the beat before PRODUCT, and those in two stages, out.
    busy: a beat is here, out.
    """

    def __init__(self, *, wide: bool) -> None:
        self.wide = wide
        super().__init__(
            {
                "narrowed": In(Flow(OPERAND_BEAT)),
                "launched": In(Flow(OPERAND_BEAT)),
                "lanes": Out(TAIL),
                "factor": Out(OPERAND_BEAT["factor"].shape),
            }
            | dict.fromkeys(("next_product", "total", "term"), Out(Flow(OPERAND_BEAT)))
            | {"busy": Out(1)}
        )

    def elaborate(self, platform):
        m = Module()
        names = ["operands", *(["partials"] if self.wide else []), "product", "shifted", "total", "element", "term"]
        stages = {name: Flow(OPERAND_BEAT).create(path=(name,)) for name in names}
        first = stages["operands"]
        m.d.sync += [
            first.valid.eq(self.narrowed.valid | self.launched.valid),
            first.payload.eq(Mux(self.narrowed.valid, self.narrowed.payload, self.launched.payload)),
        ]
        for before, after in pairwise(names):
            m.d.sync += stages[after].valid.eq(stages[before].valid)
            with m.If(stages[before].valid):
                m.d.sync += stages[after].payload.eq(stages[before].payload)
        for name in names[:-1]:
            m.d.comb += self.lanes[name].eq(stages[name].valid)
        product, next_product = stages["product"], stages[names[names.index("product") - 1]]
        m.d.sync += self.lanes.above.eq(Cat(next_product.payload.steps <= step for step in range(EXCESS_STEPS)))
        m.d.comb += [
            self.lanes.steps.eq(product.payload.steps),
            self.lanes.adds.eq(product.payload.adds),
            self.factor.eq(first.payload.factor),
            self.busy.eq(Cat(stage.valid for stage in stages.values()).any()),
        ]
        for port, stage in (
            (self.next_product, next_product),
            (self.total, stages["total"]),
            (self.term, stages["term"]),
        ):
            m.d.comb += [port.valid.eq(stage.valid), port.payload.eq(stage.payload)]
        return m
