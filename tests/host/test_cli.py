"""The command line: what it says where, its exit codes, and what it leaves behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import urllib.request
from pathlib import Path

import pytest

from ternlight import connect
from ternlight.abi import Register
from ternlight.cli import BROKEN_PIPE, COMMANDS, INTERRUPTED, main
from ternlight.compiler import compile_image
from ternlight.errors import (
    BuildError,
    CheckpointError,
    DeviceError,
    FitError,
    ImageError,
    LinkError,
    MismatchError,
    RequestError,
    TernlightError,
)
from ternlight.geometry import Geometry
from ternlight.sampling import Sampling
from ternlight.tokenizer import Tokenizer
from ternlight_sim.device_model import DeviceModel
from ternlight_sim.golden_session import GoldenSession
from ternlight_sim.machine import Machine
from ternlight_sim.random_model import BYTE_TOKENS, byte_tokenizer, random_config, random_image

GEOMETRY = Geometry(inputs=8, rows=8, vector=4, activations=64, accumulator=16, slots=2, prompt=16, ring=16)
TOKENIZER = byte_tokenizer()
IMAGE = random_image(
    random_config(hidden=13, intermediate=20, vocabulary=BYTE_TOKENS, name="tiny"), 3, tokenizer=TOKENIZER
)
IDENTITY = compile_image(IMAGE, GEOMETRY).identity


@pytest.fixture(scope="module")
def image_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("images") / "tiny.ternlight"
    IMAGE.save(path)
    return path


@pytest.fixture
def model(monkeypatch) -> DeviceModel:
    """What `--device board` opens."""
    model = DeviceModel(GEOMETRY)
    monkeypatch.setattr(connect, "open_transport", lambda url, *, baud: model)
    return model


def run(command: str, image: Path, *options: object) -> int:
    return main([command, *map(str, options), "--device", "board", "--image", str(image)])


def golden_text(prompt: str, tokens: int, sampling: Sampling) -> str:
    tokenizer = Tokenizer(TOKENIZER)
    session = GoldenSession(Machine(compile_image(IMAGE, GEOMETRY)))
    return tokenizer.decode(list(session.generate(tokenizer.encode(prompt), tokens, sampling, stop=[2])))


# What commands print.


def test_generate(model, image_file, capsys):
    assert run("generate", image_file, "a bear", "-n", 20, "--seed", 4, "--slot", 1) == 0
    printed = capsys.readouterr()
    assert printed.out == "a bear" + golden_text("a bear", 20, Sampling(seed=4)) + "\n"
    assert "6 prompt + 20 generated tokens" in printed.err
    assert model.closed


def test_generate_json(model, image_file, capsys):
    options = ("--json", "--temperature", 0, "-n", 9)
    assert run("generate", image_file, "a bear", *options) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["prompt"] == "a bear"
    assert report["text"] == golden_text("a bear", 9, Sampling(temperature=0))
    assert (report["prompt_tokens"], report["finish"], report["seed"]) == (6, "length", 0)


def test_generate_nothing(model, image_file, capsys):
    """`-n 0` reads the prompt."""
    assert run("generate", image_file, "a bear", "-n", 0) == 0
    assert capsys.readouterr().out == "a bear\n"


def test_info(model, image_file, capsys):
    run("generate", image_file, "a bear", "-n", 5)
    capsys.readouterr()
    assert run("info", image_file, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["lanes"] == GEOMETRY.lanes
    assert report["loaded_image"] == report["image"]["identity"] == f"{IDENTITY:08x}"
    assert report["sessions"][0] == {
        "slot": 0,
        "running": False,
        "finish": "length",
        "generated": 5,
        "position": 10,
    }
    assert report["counters"]["generated"] == 5
    assert report["image"]["fits"]
    assert report["image"]["ternary_weights"] == compile_image(IMAGE, GEOMETRY).macs
    assert run("info", image_file) == 0
    printed = capsys.readouterr().out
    assert "session  0: idle (length), 10 tokens seen" in printed
    assert f"tiny ({IDENTITY:08x}) fits" in printed


def test_info_of_an_image_that_does_not_fit(model, tmp_path, capsys):
    large = random_image(random_config(hidden=90, intermediate=100, name="large"), 1)
    large.save(tmp_path / "large.ternlight")
    assert run("info", tmp_path / "large.ternlight", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["loaded_image"] is None
    assert not report["image"]["fits"]
    assert "raise activations" in report["image"]["reason"]
    assert run("info", tmp_path / "large.ternlight") == 0
    assert "does not fit: " in capsys.readouterr().out


def test_verify(model, image_file, capsys):
    assert run("verify", image_file, "a bear", "-n", 9) == 0
    assert capsys.readouterr().out == "6 prompt and 9 generated tokens and the final state are equal\n"
    assert run("verify", image_file, "a bear", "-n", 9, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "prompt_tokens": 6,
        "equal_tokens": 9,
        "equal": True,
        "difference": None,
    }


def test_verify_tells_a_difference(model, image_file, capsys):
    run("generate", image_file, "a", "-n", 1)
    memory = model.bus.memories[next(window for window in model.bus.memories if window.name == "STORE")]
    memory[: len(memory) // 64] ^= 0x5A5A5A5A
    model.bus.registers[Register.IMAGE_ID] = IDENTITY
    capsys.readouterr()
    assert run("verify", image_file, "a bear", "-n", 9, "--json") == MismatchError.exit_code
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert not report["equal"]
    assert set(report["difference"]) == {"index", "device", "golden", "state"}
    assert "the recurrent state differs first in layer 0, element" in printed.err


def test_verbose_tells_of_the_link(model, image_file):
    """On standard error, in a process whose logging is its own."""
    script = (
        "import sys, ternlight.connect as c; from ternlight.cli import main\n"
        "from ternlight.geometry import Geometry; from ternlight_sim.device_model import DeviceModel\n"
        f"c.open_transport = lambda url, *, baud: DeviceModel(Geometry.from_words({GEOMETRY.words()}))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "-v", "generate", "a", "-n", "1", "--image", str(image_file)]
    done = subprocess.run([*command, "--device", "board"], env=variables(), capture_output=True, text=True)
    assert done.returncode == 0
    assert "link to model: Statistics(requests=" in done.stderr
    assert "lanes, 100 MHz, image" in done.stderr
    assert "Statistics" not in done.stdout


# What is refused, and with which code.


def refused(capsys, code: int, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    message = printed.err.splitlines()[-1]
    assert message.startswith("ternlight: ")
    return message.removeprefix("ternlight: ")


def test_every_class_has_an_exit_code_of_its_own():
    classes = TernlightError.__subclasses__()
    codes = [error.exit_code for error in (TernlightError, *classes)]
    assert len(set(codes)) == len(codes)
    assert not {0, 2, INTERRUPTED, BROKEN_PIPE} & set(codes)
    # Scripts rely on them.
    listed = (CheckpointError, ImageError, FitError, LinkError, DeviceError, RequestError, MismatchError, BuildError)
    assert [error.exit_code for error in listed] == [3, 4, 5, 6, 7, 8, 9, 10]
    assert set(listed) == set(classes)


def test_a_missing_image(capsys, tmp_path):
    message = refused(capsys, ImageError.exit_code, "generate", "--image", tmp_path / "none.ternlight")
    assert "none.ternlight" in message


def test_a_missing_checkpoint(capsys, tmp_path):
    refused(capsys, CheckpointError.exit_code, "import", tmp_path / "none")


def test_an_image_that_does_not_fit(model, tmp_path, capsys):
    large = random_image(
        random_config(hidden=90, intermediate=100, vocabulary=BYTE_TOKENS, name="large"), 1, tokenizer=TOKENIZER
    )
    large.save(tmp_path / "large.ternlight")
    assert run("generate", tmp_path / "large.ternlight", "a") == FitError.exit_code
    assert capsys.readouterr().err.splitlines()[-1].startswith("ternlight: a product needs from 1 to 64 inputs")


def test_no_board(capsys, image_file):
    message = refused(
        capsys, LinkError.exit_code, "generate", "--device", "/dev/nonexistent", "--image", image_file, "a"
    )
    assert message.startswith("there is no port /dev/nonexistent")


def test_a_refused_socket(capsys, image_file):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, not listening
        url = f"socket://127.0.0.1:{bound.getsockname()[1]}"
        message = refused(capsys, LinkError.exit_code, "info", "--device", url, "--image", image_file)
    assert message == f"nothing listens at {url}: is the simulator or the server started?"


def test_another_device(model, image_file, capsys):
    model.bus.registers[Register.MAGIC] = 1
    assert run("info", image_file) == DeviceError.exit_code
    assert "this is no ternlight device" in capsys.readouterr().err
    assert model.closed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("a", "-n", -1), "the number of tokens must be from 0 to 4294967295, not -1"),
        (("a", "--temperature", 1000), "temperature must be 0 (greedy) or from 0.01 to 100, not 1000.0"),
        (("a", "--seed", -1), "seed must be from 0 to 4294967295, not -1"),
        (("a", "--top-k", -1), "top-k must be 0 (all tokens) or positive, not -1"),
    ],
)
@pytest.mark.parametrize("command", ["generate", "verify"])
def test_requests_are_refused_before_the_device_is_opened(monkeypatch, image_file, capsys, command, options, message):
    monkeypatch.setattr(connect, "open_transport", lambda url, *, baud: pytest.fail("the device was opened"))
    assert run(command, image_file, *options) == RequestError.exit_code
    assert capsys.readouterr().err == f"ternlight: {message}\n"


def test_characters_that_the_model_has_not(monkeypatch, capsys):
    """The shipped model's tokenizer knows few."""
    monkeypatch.setattr(connect, "open_transport", lambda url, *, baud: pytest.fail("the device was opened"))
    message = refused(capsys, RequestError.exit_code, "generate", "a \u2603 man", "--device", "board")
    assert message == "the model's tokenizer cannot encode '\u2603': leave them out or replace them"


def test_a_slot_that_does_not_exist(model, image_file, capsys):
    assert run("generate", image_file, "a", "--slot", 2) == RequestError.exit_code
    assert "slot must be from 0 to 1, not 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["generate", "--unknown"], ["generate", "-n", "many"], ["import"], ["simulate", "--port", "x"]],
)
def test_unknown_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("usage: ternlight")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--host", "0.0.0.0"),
            "0.0.0.0 is reached from other machines, and there is no API key: give --api-key-file, or --allow-anyone",
        ),
        (("--queue", 0), "--queue must be positive, not 0"),
        (("--max-prompt", -1), "--max-prompt must be positive, not -1"),
        (("--port", 65536), "--port must be from 0 to 65535, not 65536"),
        (("--api-key-file", "/none"), "/none cannot be read: "),
        (("--api-key-file", os.devnull), "/dev/null has no API key: write one a line"),
    ],
)
def test_a_server_that_is_refused(monkeypatch, image_file, capsys, options, message):
    monkeypatch.setattr(connect, "open_transport", lambda url, *, baud: pytest.fail("the device was opened"))
    assert run("serve", image_file, *options) == RequestError.exit_code
    assert capsys.readouterr().err.startswith(f"ternlight: {message}")


def test_a_port_that_is_in_use(monkeypatch, image_file, capsys):
    monkeypatch.setattr(connect, "open_transport", lambda url, *, baud: pytest.fail("the device was opened"))
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
        assert run("serve", image_file, "--port", port) == RequestError.exit_code
    assert f"cannot listen at 127.0.0.1 port {port}: Address already in use" in capsys.readouterr().err


# Processes.


def variables() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


NAMES = (
    *("generate", "chat", "serve", "verify", "bench", "info", "train", "import", "eval", "simulate", "build", "flash"),
    "doctor",
)


@pytest.mark.parametrize("command", ["", *NAMES])
def test_help_is_light(command):
    """No library that computes or builds hardware is imported for `--help`."""
    script = (
        "import sys; from ternlight.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    arguments = [*([command] if command else []), "--help"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], env=variables(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ternlight")
    imported = set(done.stderr.split())
    ours = {"ternlight_hw", "ternlight_sim", "ternlight_boards"}
    heavy = {"amaranth", "numpy", "prompt_toolkit", "rich", "serial", "starlette", "tokenizers", "uvicorn"}
    assert not imported & (heavy | ours)


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert len(COMMANDS) == len(NAMES)
    for command in NAMES:
        assert f"\n    {command} " in printed


class Server:
    """A modelled device on a TCP port, for one client after the other."""

    def __init__(self) -> None:
        self.model = DeviceModel(GEOMETRY)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"socket://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        # An accepting thread is woken by a connection that says nothing.
        self.url, url = "", self.url
        host, _, port = url.removeprefix("socket://").partition(":")
        socket.create_connection((host, int(port))).close()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while self.url:
            client, _ = self._listener.accept()
            with client, contextlib.suppress(ConnectionError):
                while self._pass_on(client):
                    pass

    def _pass_on(self, client: socket.socket) -> bool:
        running = bool(self.model.bus.sessions.running)
        client.settimeout(0.001 if running else None)
        with contextlib.suppress(TimeoutError):
            data = client.recv(4096)
            if not data:
                return False
            self.model.write(data)
        client.sendall(self.model.read(1 << 16, 0.0))
        return True


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


def start_generating(server: Server, image_file: Path) -> subprocess.Popen[bytes]:
    arguments = ["generate", "a", "-n", "1000000", "--device", server.url, "--image", str(image_file)]
    return subprocess.Popen(
        [sys.executable, "-m", "ternlight.cli", *arguments],
        env=variables(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_an_interrupt_aborts(server, image_file):
    with start_generating(server, image_file) as process:
        assert process.stdout.read(20)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert said.decode().endswith("\nternlight: interrupted\n")
    assert not server.model.bus.sessions.running


def test_a_reader_that_goes_away(server, image_file):
    """As `ternlight generate | head -c 20`: no complaint, and the device is free."""
    with start_generating(server, image_file) as process:
        assert process.stdout.read(20)
        process.stdout.close()
        process.wait(timeout=60)
        assert process.stderr.read() == b"loading the image\n"
    assert process.returncode == BROKEN_PIPE
    assert not server.model.bus.sessions.running


def test_an_output_that_cannot_show_everything(server, image_file):
    """A terminal that is not UTF-8 gets question marks, not a traceback."""
    arguments = ["generate", "a\u00e9", "-n", "30", "--device", server.url, "--image", str(image_file)]
    done = subprocess.run(
        [sys.executable, "-m", "ternlight.cli", *arguments],
        env=variables() | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"a?")


def test_a_chat_that_is_piped(server, image_file):
    """The model's text on standard output, all else on standard error, and an end of input that is no error."""
    arguments = ["chat", "-n", "9", "--temperature", "0", "--device", server.url, "--image", str(image_file)]
    done = subprocess.run(
        [sys.executable, "-m", "ternlight.cli", *arguments],
        env=variables(),
        input=b"a bear\n/fly\n",
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == golden_text("a bear", 9, Sampling(temperature=0)) + "\n"
    assert done.stderr.decode().splitlines() == ["loading the image", "there is no command /fly: /help lists them"]


def test_a_chat_on_a_terminal(server, image_file):
    """A line is edited, a long answer interrupted, and Ctrl-D leaves."""
    arguments = ["chat", "-n", "1000000", "--device", server.url, "--image", str(image_file)]
    master, slave = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ternlight.cli", *arguments],
        env=variables() | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    screen = b""

    def await_text(text: bytes) -> None:
        nonlocal screen
        while text not in screen:
            assert select.select([master], [], [], 10)[0], screen
            screen += os.read(master, 4096)
        screen = screen[screen.index(text) + len(text) :]

    with process, contextlib.ExitStack() as stack:
        stack.callback(process.kill)  # whatever fails
        await_text(b"0>")
        os.write(master, b"a bearr\x7f\r")
        while len(screen) < 200:
            screen += os.read(master, 4096)
        os.write(master, b"\x03")
        await_text(b"stopped")
        await_text(b"0>")
        assert not server.model.bus.sessions.running
        os.write(master, b"/session\r")
        await_text(b" tokens ")
        await_text(b"0>")
        os.write(master, b"\x04")
        assert process.wait(timeout=60) == 0
    os.close(master)


def test_a_server_until_it_is_interrupted(server, image_file):
    arguments = ["serve", "--port", "0", "--device", server.url, "--image", str(image_file)]
    with subprocess.Popen(
        [sys.executable, "-m", "ternlight.cli", *arguments],
        env=variables(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        url = process.stdout.readline().decode().strip()
        body = {"model": "tiny", "prompt": "a bear", "max_tokens": 9, "temperature": 0}
        request = urllib.request.Request(
            f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert answer["choices"][0]["text"] == golden_text("a bear", 9, Sampling(temperature=0))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, b"loading the image\n")
