"""A whole device in this process: the twins of port and sessions around the golden machine, behind a Transport.

The same driver that opens a board or the simulated RTL opens it, and gets the same tokens and states, in
milliseconds. Time is not modelled: the clock moves only while the host waits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ternlight import isa, ufloat
from ternlight.abi import (
    ABI_VERSION,
    MAGIC,
    WINDOW_SHIFT,
    Counter,
    Register,
    Result,
    Window,
    column_bits,
    window_columns,
    window_words,
)
from ternlight.compiler import CompiledModel
from ternlight.geometry import Geometry
from ternlight.isa import ControlOp, EngineOp, Unit
from ternlight.link.base import Transport
from ternlight.packets import encode_response

from .golden.control import SessionsModel
from .golden.sampling import sample
from .golden.scalar import UFloat
from .link_model import DevicePort
from .machine import Machine, MachineState

LOADED = (Window.PROGRAM, Window.GAINS, Window.STORE, Window.STATES)
SESSION_WINDOWS = (Window.SESSIONS, Window.PROMPTS, Window.TOKENS)
WRITABLE = (Register.IMAGE_ID, Register.VOCABULARY, Register.STATE_STRIDE)


class BusModel:
    """Registers, memories and sessions behind the host's bus: the twin of the gateware's Core, a token at a time.

    geometry; registers: by number, those of the identity can be replaced by tests.
    memories: the words of the wide memories as the host wrote them, rows without gaps.
    sessions: their twin. counters: of the lanes' cycles only BUSY is modelled, the WAITs stay zero.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.registers: dict[int, int] = {
            Register.MAGIC: MAGIC,
            Register.ABI_VERSION: ABI_VERSION,
            Register.BUILD_ID: 0,
            **{Register.GEOMETRY + index: word for index, word in enumerate(geometry.words())},
            **dict.fromkeys(WRITABLE, 0),
            Register.COMMAND: 0,
            Register.RESULT: Result.OK,
        }
        self.columns = window_columns(geometry)
        self.words = window_words(geometry)
        self.memories = {window: np.zeros(self.words[window], np.uint32) for window in LOADED}
        self.sessions = SessionsModel(geometry, vocabulary=0, state_stride=0, image=False)
        self.counters = dict.fromkeys(Counter, 0)
        self._high = 0
        self._machine: Machine | None = None

    def read(self, address: int) -> int | None:
        """The word at an address, or None if there is none."""
        window, word = self._locate(address)
        if window == Window.REGISTERS:
            return self._read_register(word)
        if window == Window.STATES:
            return int(self.memories[window][word])
        return self.sessions.read(window, word) if window in SESSION_WINDOWS else None

    def write(self, address: int, word: int) -> bool:
        """Write a word; False if the address does not exist."""
        window, offset = self._locate(address)
        if window == Window.REGISTERS:
            return self._write_register(offset, word)
        if window in LOADED:
            self.memories[window][offset] = word
        elif window in SESSION_WINDOWS:
            self.sessions.write(window, offset, word)
        return window is not None

    def run_token(self) -> bool:
        """Run the next token of a session; False if no session can go on."""
        job = self.sessions.next_job()
        if job is None:
            return False
        machine = self._loaded_machine()
        stride, width = machine.model.state_stride, self.geometry.half
        region = self.memories[Window.STATES].view("<i2").reshape(-1, width)[job["state"] : job["state"] + stride]
        state = MachineState(region.astype(np.int64)[None], job["position"])
        mantissa = job["inverse_temperature"] & (1 << ufloat.MANTISSA_BITS) - 1
        exponent = job["inverse_temperature"] >> ufloat.MANTISSA_BITS
        exponent -= exponent >> ufloat.EXPONENT_BITS - 1 << ufloat.EXPONENT_BITS
        logits = machine.run(
            np.array([job["token"]]), state, head=bool(job["head"]), inverse_temperature=(mantissa, exponent)
        )
        region[:] = state.states[0]
        token = 0
        if logits is not None:
            scale = UFloat(logits.scale.mantissa[0], logits.scale.exponent[0])
            token = int(sample(logits.accumulators[0], scale, job["top_k"], job["seed"], job["position"]))
        self.sessions.done(job["slot"], token, logits is not None)
        busy = self._busy_cycles(machine, head=bool(job["head"]))
        for counter, step in (
            (Counter.CYCLES, busy),
            (Counter.TOKENS, 1),
            (Counter.GENERATED, int(logits is not None)),
            (Counter.BUSY, busy),
        ):
            self.counters[counter] += step
        return True

    def _locate(self, address: int) -> tuple[Window | None, int]:
        """Window and word, rows counted without gaps; no window for an address that does not exist."""
        number, offset = address >> WINDOW_SHIFT, address & (1 << WINDOW_SHIFT) - 1
        if number == Window.REGISTERS:
            return Window.REGISTERS, offset
        if number not in Window.__members__.values():
            return None, 0
        window = Window(number)
        columns = self.columns[window]
        bits = column_bits(columns)
        column = offset & (1 << bits) - 1
        word = (offset >> bits) * columns + column
        return (window, word) if column < columns and word < self.words[window] else (None, 0)

    def _read_register(self, number: int) -> int | None:
        counter, high = divmod(number - Register.COUNTERS, 2)
        if counter in Counter.__members__.values():
            if not high:
                self._high = self.counters[Counter(counter)] >> 32
            return self._high if high else self.counters[Counter(counter)] & 0xFFFFFFFF
        return self.registers.get(number)

    def _write_register(self, number: int, word: int) -> bool:
        if number in WRITABLE:
            self.registers[number] = word
            self._machine = None
            self.sessions.image = self.registers[Register.IMAGE_ID] != 0
            self.sessions.vocabulary = self.registers[Register.VOCABULARY]
            self.sessions.state_stride = self.registers[Register.STATE_STRIDE]
        elif number == Register.COMMAND:
            self.registers[Register.RESULT] = self.sessions.command(word & 0xFF, word >> 8 & 0xFF)
        return self._read_register(number) is not None

    def _loaded_machine(self) -> Machine:
        """The machine of what the host has loaded."""
        if self._machine is None:
            geometry = self.geometry
            program = []
            for word in self.memories[Window.PROGRAM].view("<u8").tolist():
                program.append(isa.decode(word))
                if (program[-1]["unit"], program[-1]["op"]) == (Unit.CONTROL, ControlOp.END):
                    break
            stride = self.registers[Register.STATE_STRIDE]
            states = self.memories[Window.STATES].view("<i2").reshape(-1, geometry.half)
            model = CompiledModel(
                geometry=geometry,
                vocabulary=self.registers[Register.VOCABULARY],
                program=program,
                gains=self.memories[Window.GAINS].view("<i2").reshape(-1, geometry.vector),
                lower_bounds=states[geometry.slots * stride :],
                store=self.memories[Window.STORE].reshape(-1, geometry.store_columns),
                state_stride=stride,
                macs=0,
                head_macs=0,
            )
            self._machine = Machine(model)
        return self._machine

    def _busy_cycles(self, machine: Machine, *, head: bool) -> int:
        """The weight words of a token."""
        total = 0
        for fields in machine.model.program:
            if (fields["unit"], fields["op"]) == (Unit.ENGINE, EngineOp.MATVEC):
                total += fields["chunks"] * fields["groups"]
            elif (fields["unit"], fields["op"]) == (Unit.CONTROL, ControlOp.HEAD) and not head:
                break
        return total


class DeviceModel(Transport):
    """A device of some geometry, and the wire to it.

    It answers what was written at once; each read runs one token, if a session runs.

    geometry. bus: what is behind the port. clock: the time in seconds for a Port, which only waiting advances.
    carry_event: the frame of an event passes through it on its way to the host; a test may lose or damage it there.
    before_read: called before each read, for what a test has to happen in the midst of it.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.name = "model"
        self.bus = BusModel(geometry)
        self.now = 0.0
        self.closed = False
        self.carry_event: Callable[[bytes], bytes] = lambda frame: frame
        self.before_read: Callable[[], None] = lambda: None
        self._port = DevicePort(window_columns(geometry), self.bus)
        self._to_host = bytearray()

    def clock(self) -> float:
        """The time in seconds."""
        return self.now

    def write(self, data: bytes) -> None:
        for response in self._port.receive(data):
            self._to_host += encode_response(response)

    def read(self, maximum: int, timeout: float) -> bytes:
        self.before_read()
        sessions = self.bus.sessions
        if not (self.bus.run_token() or sessions.telling or self._to_host):
            self.now += timeout
        while (slot := sessions.next_event()) is not None:
            self._to_host += self.carry_event(self._port.event(tuple(sessions.tell(slot))))
        piece = bytes(self._to_host[:maximum])
        del self._to_host[:maximum]
        return piece

    def close(self) -> None:
        self.closed = True

    def reset(self) -> None:
        """Everything as after power-up, also what was on its way."""
        self.bus = BusModel(self.bus.geometry)
        self._port = DevicePort(window_columns(self.bus.geometry), self.bus)
        self._to_host.clear()
