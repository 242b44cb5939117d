"""The whole path, from the driver over the serial line to the simulated RTL and back, against the golden machine."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from ternlight import ufloat
from ternlight.abi import SESSION_WORDS, Command, Counter, Finish, Register, Result, SessionWord, Window, address
from ternlight.bench import bench
from ternlight.cli import INTERRUPTED, main
from ternlight.compiler import compile_image
from ternlight.connect import open_device
from ternlight.device import Device
from ternlight.errors import MismatchError
from ternlight.geometry import Geometry
from ternlight.image import Image
from ternlight.isa import EngineOp, GateOp, Unit
from ternlight.link import open_transport
from ternlight.link.port import Port
from ternlight.sampling import Sampling
from ternlight.tokenizer import Tokenizer
from ternlight_boards.simulator import DIVISOR, GEOMETRY
from ternlight_sim.fuzz import fuzz
from ternlight_sim.golden import vector
from ternlight_sim.golden_session import GoldenSession
from ternlight_sim.machine import Machine
from ternlight_sim.random_model import BYTE_TOKENS, byte_tokenizer, random_config, random_image
from ternlight_sim.simulated_device import build_simulator, gateware_sources, snapshot_path, start_simulator

SMALL = Geometry(
    inputs=8,
    rows=8,
    vector=4,
    store_words=4096,
    gain_words=1024,
    residual_words=32,
    gated_words=64,
    state_words=512,
    program_words=512,
    activations=128,
    accumulator=16,
    slots=4,
    prompt=16,
    ring=16,
    top_k=8,
)
GREEDY = Sampling(temperature=0)
STORY = "Once upon a time there was a little"


# The shipped model in the geometry that ships.


@pytest.fixture(scope="module")
def image() -> Image:
    return Image.default()


@pytest.fixture(scope="module")
def tokenizer(image) -> Tokenizer:
    return Tokenizer(image.tokenizer)


@pytest.fixture(scope="module")
def machine(image) -> Machine:
    return Machine(compile_image(image, GEOMETRY))


@pytest.fixture(scope="module")
def executable(image, machine):
    """The simulator of the user's cache, with a snapshot that holds the image."""
    executable = build_simulator(GEOMETRY, DIVISOR)
    with open_device(image=image):
        pass
    assert snapshot_path(executable, machine.model.identity).exists()
    return executable


@pytest.fixture(scope="module")
def simulator(executable, machine):
    """One for all tests here, which leave no session running."""
    with start_simulator(executable, machine.model.identity) as simulator:
        yield simulator


@pytest.fixture
def device(simulator, image):
    with Device(Port(open_transport(simulator.url))) as device:
        # The snapshot holds the image: a second start loads nothing.
        assert not device.load(image)
        yield device
        assert not any(device.session(slot).status().running for slot in range(GEOMETRY.slots))


def assert_golden(session, machine, prompt, tokens, sampling, **options) -> list[int]:
    """A request gives golden's tokens, and leaves golden's state behind."""
    golden = GoldenSession(machine)
    expected = list(golden.generate(prompt, tokens, sampling, **options))
    assert list(session.generate(prompt, tokens, sampling, **options)) == expected
    np.testing.assert_array_equal(session.save().states, golden.states)
    assert session.status().position == golden.position
    return expected


def weight_words(machine, tokens: int, prompt_tokens: int) -> int:
    """The weight words of tokens, and of those of a prompt that do without the head."""
    words = [
        fields["chunks"] * fields["groups"]
        for fields in machine.model.program
        if (fields["unit"], fields["op"]) == (Unit.ENGINE, EngineOp.MATVEC)
    ]
    return tokens * sum(words) + prompt_tokens * sum(words[:-1])


@pytest.mark.parametrize(("sampling", "tokens"), [(GREEDY, 64), (Sampling(temperature=0.8, seed=5), 256)])
def test_generates_what_golden_does(device, machine, tokenizer, sampling, tokens):
    before = device.counters()
    prompt = tokenizer.encode(STORY)
    session = device.session(1)
    assert_golden(session, machine, prompt, tokens, sampling)
    assert session.finish == Finish.LENGTH
    spent = {counter: value - before[counter] for counter, value in device.counters().items()}
    assert (spent[Counter.GENERATED], spent[Counter.TOKENS]) == (tokens, tokens + len(prompt) - 1)
    assert spent[Counter.BUSY] == weight_words(machine, tokens, len(prompt) - 1)
    shared = sum(spent[counter] for counter in Counter if counter == Counter.BUSY or counter.name.startswith("WAIT"))
    assert shared <= spent[Counter.CYCLES]


def test_sessions_interleaved(device, machine, tokenizer):
    prompts = [tokenizer.encode(STORY), tokenizer.encode("The bear said")]
    settings = [Sampling(seed=1), Sampling(temperature=1.2, top_k=0, seed=2)]
    slots = (3, 0)
    requests = [
        device.session(slot).generate(prompt, 48, sampling)
        for slot, prompt, sampling in zip(slots, prompts, settings, strict=True)
    ]
    pairs = list(zip(*requests, strict=True))
    for index, (slot, prompt, sampling) in enumerate(zip(slots, prompts, settings, strict=True)):
        golden = GoldenSession(machine)
        assert [pair[index] for pair in pairs] == list(golden.generate(prompt, 48, sampling))
        np.testing.assert_array_equal(device.session(slot).save().states, golden.states)


def test_an_aborted_request_leaves_no_trace(device, machine, tokenizer):
    session = device.session(2)
    with closing(session.generate(tokenizer.encode("The end of"), 100_000, Sampling(seed=1))) as request:
        for _ in range(5):
            next(request)
    assert session.finish == Finish.ABORTED
    assert_golden(session, machine, tokenizer.encode(STORY), 24, Sampling(seed=3))


def test_a_prompt_longer_than_the_buffer(device, machine):
    prompt = np.random.default_rng(1).integers(machine.model.vocabulary, size=600).tolist()
    assert len(prompt) > 2 * GEOMETRY.prompt
    assert_golden(device.session(0), machine, prompt, 8, Sampling(seed=8))


def test_a_stop_token(device, machine, tokenizer):
    prompt, sampling = tokenizer.encode(STORY), Sampling(seed=4)
    free = list(GoldenSession(machine).generate(prompt, 32, sampling))
    session = device.session(1)
    tokens = assert_golden(session, machine, prompt, 32, sampling, stop=[free[20]])
    assert session.finish == Finish.STOP
    assert tokens[-1] == free[20]


def test_a_saved_state_goes_on_in_another_slot(device, machine, tokenizer):
    prompt, sampling = tokenizer.encode(STORY), Sampling(temperature=1.0, seed=6)
    golden = GoldenSession(machine)
    expected = list(golden.generate(prompt, 40, sampling))
    first, second = device.session(0), device.session(3)
    head = list(first.generate(prompt, 16, sampling))
    saved = first.save()
    list(first.generate(prompt, 3, GREEDY))
    second.restore(saved)
    assert head + list(second.generate(head[-1:], 24, sampling, keep_state=True)) == expected
    np.testing.assert_array_equal(second.save().states, golden.states)


def test_refusals(device, machine):
    """Written past the driver's own checks; the device goes on as if nothing had been asked."""
    valid = {SessionWord.PROMPT_COUNT: 1, SessionWord.MAX_TOKENS: 1, SessionWord.TOP_K: 1}
    slots = GEOMETRY.slots

    def answer(op, slot, words):
        for word, value in words.items():
            device.port.write(address(Window.SESSIONS, slot * SESSION_WORDS + word), [value])
        device.port.write(address(Window.REGISTERS, Register.COMMAND), [op | slot << 8])
        return Result(device.port.read(address(Window.REGISTERS, Register.RESULT), 1)[0])

    assert answer(99, 0, {}) == Result.UNKNOWN_COMMAND
    assert answer(Command.START, slots, {}) == Result.NO_SUCH_SLOT
    assert answer(Command.START, 0, valid | {SessionWord.PROMPT_COUNT: 0}) == Result.EMPTY_PROMPT
    assert answer(Command.START, 0, valid | {SessionWord.PROMPT_COUNT: GEOMETRY.prompt + 1}) == Result.PROMPT_TOO_LONG
    assert answer(Command.START, 0, valid | {SessionWord.TOP_K: GEOMETRY.top_k + 1}) == Result.TOP_K_TOO_LARGE
    device.port.write(address(Window.REGISTERS, Register.IMAGE_ID), [0])
    assert answer(Command.START, 0, valid) == Result.NO_IMAGE
    device.port.write(address(Window.REGISTERS, Register.IMAGE_ID), [machine.model.identity])
    with closing(device.session(0).generate([5], 100_000, GREEDY)) as request:
        next(request)
        assert answer(Command.START, 0, {}) == Result.SLOT_RUNNING
    assert_golden(device.session(0), machine, [5, 6], 8, GREEDY)


def test_a_bad_token_ends_the_request(device, machine):
    session = device.session(2)
    device.port.write(address(Window.PROMPTS, 2 * GEOMETRY.prompt // 2), [5 | machine.model.vocabulary << 16])
    record = {SessionWord.PROMPT_COUNT: 2, SessionWord.MAX_TOKENS: 3, SessionWord.TOP_K: 1}
    for word, value in record.items():
        device.port.write(address(Window.SESSIONS, 2 * SESSION_WORDS + word), [value])
    device.command(Command.START, 2)
    while session.status().running:
        pass
    assert session.status()[1:3] == (Finish.BAD_TOKEN, 0)


def test_gateware_sources_are_what_top_is_made_of():
    """In a process of its own, what is imported with Top is what the digest covers, and nothing else of ours."""
    listing = "import sys, ternlight_hw.top; print(*sorted(sys.modules))"
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run([sys.executable, "-c", listing], env=variables, capture_output=True, text=True, check=True)
    loaded = {name for name in output.stdout.split() if name.split(".")[0] in ("ternlight", "ternlight_hw")}
    assert loaded == set(gateware_sources())
    assert "ternlight.device" not in loaded


# `ternlight verify`, green and red.


def run_verify(simulator, *options: str) -> int:
    return main(["verify", STORY, "--device", simulator.url, "--tokens", "12", "--seed", "2", *options])


def test_verify_is_green(simulator, executable, capsys):
    assert run_verify(simulator) == 0
    prompt = len(Tokenizer(Image.default().tokenizer).encode(STORY))
    assert capsys.readouterr().out == f"{prompt} prompt and 12 generated tokens and the final state are equal\n"


def flip_trit(monkeypatch, layers: int) -> str:
    """One weight of layer 1's candidate matrix."""
    original = Machine.__init__

    def spoilt(self, model):
        original(self, model)
        # Layer by layer f, i, g, o, gate and down; then the head.
        matrix = list(self._matrices.values())[6 + 1]
        matrix[3, 5] = 1 if matrix[3, 5] == 0 else -matrix[3, 5]

    monkeypatch.setattr(Machine, "__init__", spoilt)
    return "the recurrent state differs first in layer 1, element 3:"


def flip_lower_bound(monkeypatch, layers: int) -> str:
    """A bit of a forget gate's lower bound, of the last layer."""
    original = Machine.__init__

    def spoilt(self, model):
        original(self, model)
        forgets = [fields for fields in model.program if (fields["unit"], fields["op"]) == (Unit.GATE, GateOp.FORGET)]
        lower_bounds = model.lower_bounds.copy()
        lower_bounds[forgets[-1]["state"] - model.lower_bound_word, 2] ^= 1 << 10
        self.model = replace(model, lower_bounds=lower_bounds)

    monkeypatch.setattr(Machine, "__init__", spoilt)
    return f"the recurrent state differs first in layer {layers - 1}, element 2:"


def flip_sigmoid(monkeypatch, layers: int) -> str:
    """One entry of the table, which all layers read."""
    table = vector._TABLE.copy()
    table[3] ^= 1 << 6
    monkeypatch.setattr(vector, "_TABLE", table)
    return "the recurrent state differs first in layer 0, element "


@pytest.mark.parametrize("spoil", [flip_trit, flip_lower_bound, flip_sigmoid])
def test_verify_is_red(simulator, executable, image, monkeypatch, capsys, spoil):
    message = spoil(monkeypatch, image.config.layers)
    assert run_verify(simulator) == MismatchError.exit_code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_verify_blames_the_head(simulator, executable, monkeypatch, capsys):
    """The states are equal where only the choice of the token differs."""
    original = Machine.run

    def spoilt(self, *arguments, **options):
        logits = original(self, *arguments, **options)
        if logits is not None:
            logits.accumulators[:] = -logits.accumulators
        return logits

    monkeypatch.setattr(Machine, "run", spoilt)
    assert run_verify(simulator) == MismatchError.exit_code
    assert "generated token 0 is " in (said := capsys.readouterr().err)
    assert "the recurrent states before it are equal: head or sampler differ" in said


# Random models of odd shapes on one small build.

SHAPES = [
    {"hidden": 37, "intermediate": 53, "layers": 2, "vocabulary": 61},
    {"hidden": 5, "intermediate": 3, "layers": 1, "vocabulary": 5},
    {"hidden": 21, "intermediate": 100, "layers": 4, "vocabulary": 33},
    {"hidden": 9, "intermediate": 17, "layers": 3, "vocabulary": 300},
    {"hidden": 64, "intermediate": 24, "layers": 1, "vocabulary": 128},
    {"hidden": 2, "intermediate": 40, "layers": 6, "vocabulary": 7},
]


@pytest.fixture(scope="module")
def small():
    with start_simulator(build_simulator(SMALL, DIVISOR)) as simulator:
        yield simulator


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
def test_random_models(small, shape):
    """One after the other on one device, on a slot each, with prompts around the buffer's length."""
    random = np.random.default_rng(shape["hidden"])
    image = random_image(random_config(**shape), shape["layers"])
    with Device(Port(open_transport(small.url))) as device:
        assert device.load(image)
        machine = Machine(device.require_model())
        settings = (GREEDY, Sampling(seed=9, top_k=0), Sampling(top_k=5, temperature=1.5), Sampling(top_k=8, seed=7))
        for slot, sampling in enumerate(settings):
            prompt = random.integers(shape["vocabulary"], size=(1, 15, 16, 17)[slot]).tolist()
            assert_golden(device.session(slot), machine, prompt, 20, sampling)


def test_an_inverse_temperature_of_any_exponent(small):
    """Sampling's whole range; the exponent is signed in the record."""
    with Device(Port(open_transport(small.url))) as device:
        device.load(random_image(random_config(hidden=9, intermediate=9, layers=1, vocabulary=40), 1))
        machine = Machine(device.require_model())
        for temperature in (0.01, 1.0, 100.0):
            sampling = Sampling(temperature=temperature, top_k=0, seed=3)
            assert -ufloat.MANTISSA_BITS - 7 <= sampling.inverse_temperature[1] < 0
            assert_golden(device.session(1), machine, [7], 12, sampling)


def test_bench(small):
    """Alone, a session's cycles are its own to the last; of several, only those are counted in which all run."""
    with Device(Port(open_transport(small.url))) as device:
        device.load(random_image(random_config(**SHAPES[0]), 1))
        report = bench(device, tokens=48, sessions=[1, 3])
        machine = Machine(device.require_model())
    alone, together = report["runs"]
    assert report["request"] == {"prompt": SMALL.prompt, "tokens": 48}
    for phase, tokens, prompt_tokens in (("prompt", 0, SMALL.prompt), ("decoding", 48, 0)):
        words = weight_words(machine, tokens, prompt_tokens)
        assert alone[phase]["busy"] == words == report["limits"][phase]["words"] * alone[phase]["tokens"]
        assert alone[phase]["cycles"] == words + sum(alone[phase]["waits"].values())
        assert alone[phase]["waits"]["vector"] > 0
    assert alone["prompt"]["waits"]["link"] == 0
    window = together["decoding"]
    assert 12 <= window["tokens"] < window["all_tokens"] == 3 * 48
    # The simulation does not wait for a slow host, but its sessions do.
    costs = [(each["cycles"] - each["waits"]["link"]) / each["tokens"] for each in (alone["decoding"], window)]
    assert costs[1] < 1.1 * costs[0]


def test_an_interrupted_command_leaves_the_device_usable(small, tmp_path):
    """Ctrl-C in the midst of `generate`."""
    image = random_image(
        random_config(hidden=16, intermediate=24, layers=1, vocabulary=BYTE_TOKENS, eos=None),
        5,
        tokenizer=byte_tokenizer(),
    )
    image.save(tmp_path / "random.ternlight")
    arguments = ["generate", "a", "--device", small.url, "--image", str(tmp_path / "random.ternlight"), "--top-k", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ternlight.cli", *arguments, "--tokens", "1000000"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert len(process.stdout.read(40)) == 40
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert said.decode().endswith("ternlight: interrupted\n")
    with Device(Port(open_transport(small.url))) as device:
        assert not device.load(image)
        assert device.session(0).status()[:2] == (False, Finish.ABORTED)
        assert_golden(device.session(0), Machine(device.require_model()), [9, 10], 12, GREEDY)


def test_a_killed_host_leaves_no_session_behind(small):
    """The next host that opens the device with an image ends what still runs, even to load another image."""
    first, second = (random_image(random_config(hidden=8, intermediate=8, layers=1), seed) for seed in (1, 2))
    with Device(Port(open_transport(small.url))) as device:
        device.load(first)
        device.port.write(address(Window.SESSIONS, 3 * SESSION_WORDS + SessionWord.PROMPT_COUNT), [1, 1 << 30, 0, 1])
        device.command(Command.START, 3)
    with open_device(small.url, image=second) as device:
        assert device.session(3).status()[:2] == (False, Finish.ABORTED)
        assert_golden(device.session(3), Machine(device.require_model()), [9, 10], 12, GREEDY)


def test_garbage_does_not_wedge_the_device(small):
    """Noise, endless frames and nonsense with a right CRC, over the wire; the next host gets its tokens."""
    image = random_image(random_config(hidden=8, intermediate=8, layers=1), 1)
    wire = open_transport(small.url)
    for data in fuzz(random.Random(3), 400, range(1 << 28, 1 << 32, 12345)):
        wire.write(data)
        wire.read(4096, 0.0)
    wire.close()
    with open_device(small.url, image=image) as device:
        assert_golden(device.session(2), Machine(device.require_model()), [9, 10], 12, GREEDY)


def test_a_damaged_snapshot_is_discarded(small, tmp_path):
    executable = build_simulator(SMALL, DIVISOR)
    path = snapshot_path(executable, 1)
    path.write_bytes(b"no snapshot")
    with start_simulator(executable, 1) as simulator, Device(Port(open_transport(simulator.url))) as device:
        assert device.image_id == 0
    assert not path.exists()


def test_a_later_start_sends_nothing(executable, image, machine):
    """The snapshot holds the image."""
    sent = []
    with open_device(image=image, progress=lambda done, _: sent.append(done)) as device:
        assert device.image_id == machine.model.identity
    assert not sent
