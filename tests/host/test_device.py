"""The driver on a modelled device: requests, sessions side by side, bad luck with events, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from ternlight.abi import (
    ABI_VERSION,
    CONTINUE_FLAG,
    MAGIC,
    SESSION_WORDS,
    Command,
    Counter,
    Finish,
    Register,
    Result,
    SessionWord,
    Window,
    address,
    pack_tokens,
    unpack_tokens,
)
from ternlight.compiler import compile_image
from ternlight.device import Device
from ternlight.errors import DeviceError, FitError, LinkError, RequestError
from ternlight.geometry import Geometry
from ternlight.link.port import Port
from ternlight.packets import Event, decode_response
from ternlight.sampling import Sampling
from ternlight_sim.device_model import DeviceModel
from ternlight_sim.golden_session import GoldenSession
from ternlight_sim.machine import Machine
from ternlight_sim.random_model import random_config, random_image

SMALL = Geometry(
    inputs=8,
    rows=8,
    vector=4,
    store_words=1024,
    gain_words=512,
    residual_words=8,
    gated_words=16,
    state_words=128,
    program_words=256,
    activations=64,
    accumulator=16,
    slots=3,
    prompt=16,
    ring=16,
    top_k=64,
)
IMAGE = random_image(random_config(hidden=21, intermediate=30, layers=1, vocabulary=50), 3)
OTHER_IMAGE = random_image(random_config(hidden=9, intermediate=11, layers=1, vocabulary=20), 4)
MACHINE = Machine(compile_image(IMAGE, SMALL))
GREEDY = Sampling(temperature=0)
WILD = Sampling(temperature=1.5, top_k=0, seed=11)


def opened(model: DeviceModel) -> Device:
    return Device(Port(model, clock=model.clock, seed=1))


@pytest.fixture
def model() -> DeviceModel:
    return DeviceModel(SMALL)


@pytest.fixture
def device(model) -> Device:
    device = opened(model)
    assert device.load(IMAGE)
    return device


@cache
def golden_request(prompt: tuple[int, ...], tokens: int, sampling: Sampling) -> tuple[list[int], GoldenSession]:
    session = GoldenSession(MACHINE)
    return list(session.generate(prompt, tokens, sampling)), session


def golden(prompt: list[int], tokens: int, sampling: Sampling) -> tuple[list[int], GoldenSession]:
    """The tokens, and the session after them, not to be changed."""
    return golden_request(tuple(prompt), tokens, sampling)


def random_prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(50, size=length).tolist()


def start_raw(device: Device, slot: int, words: dict[SessionWord, int]) -> None:
    """Write to a record and start, past the checks of the driver."""
    for word, value in words.items():
        device.port.write(address(Window.SESSIONS, slot * SESSION_WORDS + word), [value])
    device.command(Command.START, slot)


def event_of(frame: bytes) -> Event:
    return Event.from_words(decode_response(frame[:-1]).words)


# Identity and images.


def test_identity(model):
    model.bus.registers[Register.BUILD_ID] = 0x2468ACE0
    device = opened(model)
    assert (device.geometry, device.build_id, device.image_id, device.model) == (SMALL, 0x2468ACE0, 0, None)


@pytest.mark.parametrize("numbers", [Register, SessionWord, Window, Counter, Command, Result, Finish])
def test_numbers_of_the_interface_are_distinct(numbers):
    """Two names of one number are one member of an enumeration."""
    assert len(numbers) == len(numbers.__members__)


def test_registers_do_not_overlap():
    geometry = range(Register.GEOMETRY, Register.GEOMETRY + len(SMALL.words()))
    counters = range(Register.COUNTERS, Register.COUNTERS + 2 * len(Counter))
    used = [*set(Register) - {Register.GEOMETRY, Register.COUNTERS}, *geometry, *counters]
    assert len(set(used)) == len(used)


@pytest.mark.parametrize(
    ("register", "value", "message"),
    [
        (Register.MAGIC, 0x12345678, f"this is no ternlight device: its magic is 0x12345678, not {MAGIC:#010x}"),
        (
            Register.ABI_VERSION,
            ABI_VERSION + 1,
            f"the device speaks ABI version {ABI_VERSION + 1}, this host {ABI_VERSION}: "
            "build the bitstream and install the host from the same release",
        ),
    ],
)
def test_another_identity_is_refused(model, register, value, message):
    model.bus.registers[register] = value
    with pytest.raises(DeviceError) as error:
        opened(model)
    assert str(error.value) == message
    assert model.closed


def test_an_impossible_geometry_is_refused(model):
    model.bus.registers[Register.GEOMETRY] = 0
    with pytest.raises(FitError, match="inputs must be a positive integer, not 0"):
        opened(model)
    assert model.closed


def test_load_sends_an_image_once(model, device):
    told = []
    assert not device.load(IMAGE, lambda done, total: told.append((done, total)))
    assert told == []
    again = opened(model)
    assert again.image_id == MACHINE.model.identity
    assert not again.load(IMAGE)
    assert again.load(OTHER_IMAGE, lambda done, total: told.append((done, total)))
    assert again.image_id == compile_image(OTHER_IMAGE, SMALL).identity
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]
    assert [word for word in model.bus.memories[Window.STORE].tolist() if word]


def test_load_refuses_while_another_image_runs(device):
    request = device.session(1).generate([1], 100)
    next(request)
    with pytest.raises(DeviceError, match=r"^session 1 is running on another image: abort it first$"):
        device.load(OTHER_IMAGE)
    assert not device.load(IMAGE)
    assert len([*request]) == 99
    assert device.load(OTHER_IMAGE)


def test_sessions_forget_another_image(device):
    list(device.session(1).generate([1, 2, 3], 2))
    device.load(OTHER_IMAGE)
    assert device.session(1).status().position == 0


def test_lower_bounds_lie_behind_the_states(model):
    """Of all slots; sessions leave them there, and requests read them."""
    image = random_image(random_config(hidden=9, intermediate=11, layers=3, vocabulary=20), 5)
    device = opened(model)
    device.load(image)
    compiled = device.require_model()
    memory = model.bus.memories[Window.STATES].view("<i2").reshape(SMALL.state_words, SMALL.half)
    behind = slice(SMALL.slots * compiled.state_stride, (SMALL.slots + 1) * compiled.state_stride)
    assert compiled.lower_bounds[compiled.state_stride // 3 :].any()
    for slot in range(SMALL.slots):
        np.testing.assert_array_equal(memory[behind], compiled.lower_bounds)
        reference = GoldenSession(Machine(compiled))
        assert list(device.session(slot).generate([1, 2], 9, WILD)) == list(reference.generate([1, 2], 9, WILD))
        np.testing.assert_array_equal(device.session(slot).save().states, reference.states)
    np.testing.assert_array_equal(memory[behind], compiled.lower_bounds)
    assert not memory[behind.stop :].any()
    memory[behind] = 0
    model.bus.registers[Register.IMAGE_ID] = 0
    again = opened(model)
    again.load(image)
    np.testing.assert_array_equal(memory[behind], compiled.lower_bounds)


def test_an_interrupted_load_leaves_no_image(model, device):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        device.load(OTHER_IMAGE, interrupt)
    assert device.image_id == 0
    assert device.load(IMAGE)
    assert list(device.session().generate([7], 5, WILD)) == golden([7], 5, WILD)[0]


def test_an_image_that_does_not_fit_is_not_sent(model):
    device = opened(model)
    large = random_image(random_config(hidden=40, intermediate=100, layers=1, vocabulary=9), 0)
    with pytest.raises(FitError):
        device.load(large)
    assert device.model is None
    with pytest.raises(DeviceError, match=r"^no image is loaded: load one first$"):
        device.session().generate([1], 1)
    with pytest.raises(DeviceError, match=r"^no image is loaded: load one first$"):
        device.session().save()


# Requests.


@pytest.mark.parametrize("sampling", [GREEDY, WILD, Sampling(top_k=5, seed=2)], ids=["greedy", "all", "top-k"])
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 32, 50])
def test_generate_equals_golden(device, sampling, length):
    """Prompts up to three buffers long, and more tokens than the ring holds."""
    prompt, session = random_prompt(length), device.session(2)
    expected, reference = golden(prompt, 24, sampling)
    assert list(session.generate(prompt, 24, sampling)) == expected
    assert session.finish == Finish.LENGTH
    assert session.status() == (False, Finish.LENGTH, 24, length + 23)
    np.testing.assert_array_equal(session.save().states, reference.states)


def test_reading_a_prompt_only(device):
    session = device.session()
    assert list(session.generate([4, 5, 6], 0)) == []
    assert session.finish == Finish.FED
    assert session.status().position == 3
    tokens, reference = golden([4, 5, 6], 4, WILD)
    assert list(session.generate([tokens[0]], 3, WILD, keep_state=True)) == tokens[1:]
    np.testing.assert_array_equal(session.save().states, reference.states)


def test_a_stop_token_ends_the_request(device):
    free = golden([9], 40, WILD)[0]
    stop = [50 - 1, free[20]]
    session = device.session()
    expected = free[: free.index(next(token for token in free if token in stop)) + 1]
    assert list(session.generate([9], 40, WILD, stop=stop)) == expected
    assert session.finish == Finish.STOP


def test_sessions_side_by_side(device):
    prompts = [random_prompt(3 + 14 * slot, slot) for slot in range(SMALL.slots)]
    requests = [device.session(slot).generate(prompt, 30, WILD) for slot, prompt in enumerate(prompts)]
    columns = zip(*requests, strict=True)
    assert [list(column) for column in zip(*columns, strict=True)] == [
        golden(prompt, 30, WILD)[0] for prompt in prompts
    ]


def test_a_session_waits_for_credit(model, device):
    """A host that does not take its tokens stops its own session, and no other."""
    slow = device.session(0).generate([3], 100, WILD)
    taken = [next(slow)]
    assert list(device.session(1).generate([5], 60, WILD)) == golden([5], 60, WILD)[0]
    for _ in range(100):
        device.session(1).status()
        model.bus.run_token()
    assert device.session(0).status()[:3] == (True, Finish.NONE, SMALL.ring)
    assert [*taken, *slow] == golden([3], 100, WILD)[0]


def test_counters(device):
    before = device.counters()
    list(device.session().generate([1, 2, 3], 10))
    spent = {counter: value - before[counter] for counter, value in device.counters().items()}
    assert (spent[Counter.TOKENS], spent[Counter.GENERATED]) == (12, 10)


def test_counters_beyond_32_bits(model, device):
    model.bus.counters[Counter.CYCLES] = 0x1234_5678_9ABC
    assert device.counters()[Counter.CYCLES] == 0x1234_5678_9ABC


# Events that are lost, damaged, late or of another time.


@pytest.mark.parametrize("lost", [lambda number: True, lambda number: number % 3 != 0, lambda number: number > 5])
def test_lost_events_are_repaired_from_the_ring(model, device, lost):
    seen = []

    def lose(frame: bytes) -> bytes:
        seen.append(frame)
        return b"" if lost(len(seen)) else frame

    model.carry_event = lose
    expected = golden(random_prompt(20), 60, WILD)[0]
    session = device.session(1)
    assert list(session.generate(random_prompt(20), 60, WILD)) == expected
    assert session.finish == Finish.LENGTH


def test_repeated_and_damaged_events(model, device):
    held = []

    def spoil(frame: bytes) -> bytes:
        held.append(frame)
        match len(held) % 4:
            case 0:
                return bytes([frame[0] ^ 4]) + frame[1:]
            case 1:
                return frame + held[len(held) // 2]
            case 2:
                return frame * 2
        return frame

    model.carry_event = spoil
    assert list(device.session(1).generate([8, 9], 100, WILD)) == golden([8, 9], 100, WILD)[0]
    assert device.port.statistics.corrupt > 10


def test_events_of_an_earlier_request_are_left_alone(model, device):
    """Its last event, of the same slot, comes again with every event of the next request."""
    frames = []
    model.carry_event = lambda frame: frames.append(frame) or frame
    list(device.session(1).generate([8, 9], 9, GREEDY))
    stale = frames[-1]
    assert event_of(stale).finish == Finish.LENGTH
    model.carry_event = lambda frame: stale + frame
    # Another Session object, as of another host, does not know the earlier tag.
    assert list(device.session(1).generate([5], 9, WILD)) == golden([5], 9, WILD)[0]


def test_every_request_has_a_new_tag(model, device):
    tags = set()
    model.carry_event = lambda frame: tags.add(event_of(frame).tag) or frame
    for _ in range(20):
        list(device.session().generate([1], 1))
    assert len(tags) == 20


@pytest.mark.parametrize("first", [0, 3, 14, 15])
@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_the_ring_is_read_in_bulk(model, device, first, count):
    """At every alignment, around the end of the ring, in at most two reads."""
    session = device.session(1)
    model.bus.sessions.rings[1] = list(range(100, 100 + SMALL.ring))
    model.bus.sessions.rings[2] = [0] * SMALL.ring
    before = device.port.statistics.requests
    tokens = session.ring(32 + first, 32 + first + count)
    assert tokens == [100 + (first + index) % SMALL.ring for index in range(count)]
    assert device.port.statistics.requests - before <= 2


def test_a_device_that_was_reset_is_noticed(model, device):
    request = device.session().generate([1], 100, WILD)
    next(request)
    model.carry_event = lambda frame: b""
    sessions = model.bus.sessions
    sessions.running.clear()
    sessions.records[0][:] = [0] * SESSION_WORDS
    with pytest.raises(DeviceError, match=r"^session 0 has lost its request: the device was reset$"):
        list(request)


# Leaving early.


def test_closing_a_request_aborts_it(model, device):
    session = device.session(1)
    request = session.generate([2], 1000, WILD)
    taken = [next(request) for _ in range(5)]
    request.close()
    assert session.finish == Finish.ABORTED
    assert not session.status().running
    assert not model.bus.sessions.running
    expected = golden([2], 30, WILD)[0]
    assert taken == expected[:5]
    assert list(session.generate([2], 30, WILD)) == expected


def test_an_interrupt_aborts_the_request(model, device):
    """Ctrl-C while the host waits, wherever that is."""
    expected = golden(random_prompt(20), 20, WILD)[0]
    for moment in range(1, 90, 11):
        reads = 0

        def interrupt(moment=moment):
            nonlocal reads
            reads += 1
            if reads == moment:
                raise KeyboardInterrupt

        model.before_read = interrupt
        tokens = []
        with pytest.raises(KeyboardInterrupt):
            tokens.extend(device.session().generate(random_prompt(20), 1000, WILD))
        model.before_read = lambda: None
        assert not model.bus.sessions.running, moment
        assert tokens[:20] == expected[: len(tokens)]
        assert list(device.session().generate(random_prompt(20), 20, WILD)) == expected


def test_an_abort_of_an_idle_session_does_nothing(device):
    list(device.session().generate([1], 3))
    device.session().abort()
    assert device.session().status()[:3] == (False, Finish.LENGTH, 3)


def test_a_broken_link_is_not_waited_for_twice(model, device):
    request = device.session().generate([1], 1000, WILD)
    next(request)
    reads = 0

    def breaks():
        nonlocal reads
        reads += 1
        raise LinkError("the cable is out")

    model.before_read = breaks
    with pytest.raises(LinkError, match="the cable is out"):
        list(request)
    assert reads == 1


def test_orphans_are_aborted(model, device):
    """A host died in the midst of a request, and its device waits for credit."""
    start_raw(device, 1, {SessionWord.PROMPT_COUNT: 1, SessionWord.MAX_TOKENS: 10_000})
    successor = opened(model)
    assert [successor.session(slot).status().running for slot in range(SMALL.slots)] == [False, True, False]
    successor.abort_orphans()
    assert not any(successor.session(slot).status().running for slot in range(SMALL.slots))
    assert successor.load(OTHER_IMAGE)


def test_a_running_slot_is_not_started_again(device):
    first = device.session(0).generate([1], 50, WILD)
    taken = [next(first)]
    with pytest.raises(DeviceError, match=r"^session 0 is running and cannot be started again: abort it or wait"):
        next(device.session(0).generate([2], 5))
    assert [*taken, *first] == golden([1], 50, WILD)[0]


# States.


def test_save_and_restore(model, device):
    session, other = device.session(0), device.session(2)
    tokens, reference = golden(random_prompt(5), 20, WILD)
    head = list(session.generate(random_prompt(5), 8, WILD))
    saved = session.save()
    assert (saved.identity, saved.position) == (MACHINE.model.identity, 12)
    list(session.generate([1, 2, 3], 9))
    other.restore(saved)
    assert head + list(other.generate(head[-1:], 12, WILD, keep_state=True)) == tokens
    np.testing.assert_array_equal(other.save().states, reference.states)
    assert other.status().position == reference.position


def test_a_state_of_another_image_or_shape_is_refused(device):
    session = device.session()
    saved = session.save()
    with pytest.raises(FitError, match=f"the state is of image 00000001, but {MACHINE.model.identity:08x} is loaded"):
        session.restore(replace(saved, identity=1))
    assert saved.states.shape == (2 * 6, SMALL.half)
    with pytest.raises(FitError, match=r"the state has shape \(12, 1\), but this device holds \(12, 2\)"):
        session.restore(replace(saved, states=saved.states[:, :1]))
    with pytest.raises(FitError, match=r"the state has shape \(11, 2\), but this device holds \(12, 2\)"):
        session.restore(replace(saved, states=saved.states[:-1]))


@pytest.mark.parametrize(
    ("act", "what"),
    [
        (lambda session: session.save(), "saved"),
        (lambda session: session.reset(), "reset"),
        (lambda session: session.restore(session.device.session(1).save()), "restored"),
    ],
)
def test_a_running_session_is_left_alone(device, act, what):
    request = device.session(0).generate([1], 40, WILD)
    taken = [next(request)]
    with pytest.raises(DeviceError) as error:
        act(device.session(0))
    assert str(error.value) == f"session 0 is running and cannot be {what}: abort it or wait for its end"
    assert [*taken, *request] == golden([1], 40, WILD)[0]


def test_reset_forgets(device):
    session = device.session()
    list(session.generate([1, 2], 5, WILD))
    session.reset()
    assert session.status().position == 0
    assert list(session.generate([7], 5, WILD, keep_state=True)) == golden([7], 5, WILD)[0]


# Refusals.


def test_a_slot_that_does_not_exist(device):
    for slot in (-1, SMALL.slots):
        with pytest.raises(RequestError, match=rf"^slot must be from 0 to {SMALL.slots - 1}, not {slot}$"):
            device.session(slot)


def test_requests_are_checked_before_anything_is_sent(model, device):
    before = model.bus.sessions.records[0].copy()
    with pytest.raises(RequestError, match=r"^the prompt is empty"):
        device.session().generate([], 1)
    with pytest.raises(RequestError, match=r"^token 50 is not in the vocabulary of 50$"):
        device.session().generate([50], 1)
    assert model.bus.sessions.records[0] == before


def test_a_prompt_that_the_host_let_through(model, device):
    device.model = replace(device.require_model(), vocabulary=1000)
    with pytest.raises(DeviceError, match=r"^the device found a token beyond its vocabulary in the prompt$"):
        list(device.session().generate([1, 2, 600], 5))
    assert device.session().status().finish == Finish.BAD_TOKEN


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({SessionWord.PROMPT_COUNT: 0}, "the prompt is empty"),
        ({SessionWord.PROMPT_COUNT: 17}, "the prompt is longer than the slot's buffer: feed it in parts"),
        ({SessionWord.PROMPT_COUNT: 1, SessionWord.TOP_K: 65}, "top-k is larger than the device can keep"),
    ],
)
def test_the_device_refuses(device, words, reason):
    with pytest.raises(DeviceError) as error:
        start_raw(device, 0, words)
    assert str(error.value) == f"the device refused to start session 0: {reason}"


def test_the_device_refuses_commands(model, device):
    with pytest.raises(DeviceError, match="it has no such session slot"):
        device.command(Command.START, SMALL.slots)
    device.port.write(address(Window.REGISTERS, Register.COMMAND), [99])
    assert device.port.read(address(Window.REGISTERS, Register.RESULT), 1) == [Result.UNKNOWN_COMMAND]
    next(device.session(1).generate([1], 100))
    model.bus.sessions.records[1][SessionWord.FLAGS] |= CONTINUE_FLAG
    device.port.write(address(Window.REGISTERS, Register.IMAGE_ID), [0])
    with pytest.raises(DeviceError, match="no image is loaded"):
        start_raw(device, 0, {SessionWord.PROMPT_COUNT: 1})


def test_closing_gives_the_link_back(model):
    with opened(model):
        assert not model.closed
    assert model.closed


# Tokens in words.


@pytest.mark.parametrize("count", range(5))
def test_token_packing(count):
    tokens = [0xFFFF - index for index in range(count)]
    words = pack_tokens(tokens)
    assert len(words) == (count + 1) // 2
    assert unpack_tokens(words)[:count] == tokens
    assert not any(unpack_tokens(words)[count:])
