"""The accelerator behind any link: host map, sessions, sequencer and the units that it drives."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ternlight.geometry import Geometry

from .bus import HostBus
from .engine import Engine
from .gate import GateUnit
from .host_map import HostMap
from .norm import NormUnit
from .packets import PACKET_WORD
from .registers import Registers, progress_counts, wait_causes
from .sampler import Sampler
from .scalar import ScalarUnit
from .sequencer import Sequencer
from .sessions import Sessions
from .steering import ResultSteering


class Core(wiring.Component):
    """Whole tokens: sessions give jobs to the sequencer, which drives engine, norm, gate, scalar and token units.

    Parameters: geometry, build_id (32 bits, told in the identity).
    Members: bus (In, HostBus); events (Out, stream of PACKET_WORD); active (Out, 1): a session runs, or has something
    to tell.
    """

    def __init__(self, *, geometry: Geometry, build_id: int = 0) -> None:
        self.geometry = geometry
        self.build_id = build_id
        super().__init__({"bus": In(HostBus()), "events": Out(stream.Signature(PACKET_WORD)), "active": Out(1)})

    def elaborate(self, platform):
        m = Module()
        geometry = self.geometry
        m.submodules.sessions = sessions = Sessions(geometry=geometry)
        m.submodules.registers = registers = Registers(geometry=geometry, build_id=self.build_id)
        m.submodules.host_map = host_map = HostMap(geometry=geometry, session_offset_bits=sessions.offset_bits)
        m.submodules.sequencer = sequencer = Sequencer(geometry=geometry)
        m.submodules.engine = engine = Engine(geometry=geometry)
        m.submodules.norm = norm = NormUnit(geometry)
        m.submodules.gate = gate = GateUnit(geometry)
        m.submodules.scalar = scalar = ScalarUnit()
        m.submodules.sampler = sampler = Sampler(geometry=geometry)
        m.submodules.steering = steering = ResultSteering(geometry=geometry)

        # Host.
        connect(m, flipped(self.bus), host_map.bus)
        connect(m, host_map.registers, registers.bus)
        connect(m, host_map.sessions, sessions.bus)
        connect(m, host_map.program, sequencer.load)
        connect(m, host_map.gains, norm.gain_load)
        connect(m, host_map.store, engine.load)
        connect(m, host_map.states, gate.state_load)
        connect(m, host_map.states_read, gate.state_read)
        connect(m, registers.command, sessions.command)
        connect(m, sessions.events, flipped(self.events))
        # Known a cycle ahead, for a token that begins.
        m.d.sync += host_map.hold.eq(sequencer.running | sessions.job.valid)
        m.d.comb += [
            registers.result.eq(sessions.result),
            sessions.image.eq(registers.image_id != 0),
            sessions.vocabulary.eq(registers.vocabulary),
            sessions.state_stride.eq(registers.state_stride),
            self.active.eq(sessions.active),
        ]

        # Commands and values.
        connect(m, sessions.job, sequencer.job)
        connect(m, sequencer.done, sessions.done)
        connect(m, sequencer.engine, engine.command)
        connect(m, sequencer.claim, engine.claim)
        connect(m, sequencer.norm, norm.command)
        connect(m, sequencer.gate, gate.command)
        connect(m, sequencer.scalar, scalar.command)
        connect(m, sequencer.sample, sampler.command)
        connect(m, norm.writeback, sequencer.norm_result)
        connect(m, gate.writeback, sequencer.gate_result)
        connect(m, scalar.result, sequencer.scalar_result)
        connect(m, sampler.token, sequencer.sampled)
        m.d.comb += [
            sequencer.free.eq(engine.free),
            sequencer.coming.eq(engine.coming),
            sequencer.reading.eq(norm.reading),
            sequencer.engine_idle.eq(engine.idle),
            sequencer.norm_idle.eq(norm.idle),
            sequencer.gate_idle.eq(gate.idle),
        ]

        # Vectors.
        connect(m, norm.quantised, engine.quantised)
        connect(m, gate.gated, norm.gated)
        connect(m, engine.results, steering.results)
        connect(m, sequencer.consumers, steering.order)
        connect(m, steering.norm, norm.results)
        connect(m, steering.gate, gate.results)
        connect(m, steering.sampler, sampler.logits)

        # Counters, two cycles late: they hear of units in every corner.
        conditions = {
            "running": sessions.running,
            "in_token": sequencer.running,
            "busy": engine.busy,
            "starved": engine.starved,
            "sampling": sequencer.sampling,
            "waiting_scalar": sequencer.waiting_scalar,
            "blocked": sessions.blocked,
        }
        heard = {name: Signal(name=f"heard_{name}") for name in conditions}
        m.d.sync += [heard[name].eq(condition) for name, condition in conditions.items()]
        m.d.sync += registers.count.eq(progress_counts(done=sequencer.done) | wait_causes(**heard))
        return m
