"""`ternlight bench`: what is measured, how it is shown, what is refused, and the page with the kept figures."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from ternlight import bench as bench_module
from ternlight import connect
from ternlight.abi import Counter, Finish
from ternlight.bench import Measurement, Phase, Work, bench, measured, work
from ternlight.cli import main
from ternlight.compiler import compile_image
from ternlight.device import Device
from ternlight.errors import BuildError, DeviceError, FitError, RequestError
from ternlight.geometry import Geometry
from ternlight.link.port import Port
from ternlight.performance import BENCH_REPORTS, MODULE_REPORTS, NOT_TOGETHER, blocks, fill, load, renew_page, text
from ternlight.sampling import Sampling
from ternlight_sim.device_model import DeviceModel
from ternlight_sim.random_model import random_config, random_image

GEOMETRY = Geometry(
    inputs=8, rows=8, vector=4, activations=64, accumulator=16, slots=3, prompt=32, ring=16, top_k=8, clock_hz=1_000_000
)
SHAPE = {"hidden": 13, "intermediate": 20, "layers": 2, "vocabulary": 50}
IMAGE = random_image(random_config(**SHAPE, name="tiny"), 3)
MODEL = compile_image(IMAGE, GEOMETRY)
SAMPLING = Sampling(top_k=5, temperature=1.5)
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def model() -> DeviceModel:
    return DeviceModel(GEOMETRY)


@pytest.fixture
def device(model) -> Device:
    device = Device(Port(model, clock=model.clock, seed=1))
    device.load(IMAGE)
    return device


# What is measured.


def test_work():
    """Counted by hand: products of 13 and 20 in chunks of 8 and groups of 8, padded."""
    square, gate, down, head = 2 * 2, 2 * 5, 3 * 2, 2 * 7
    layers = 2 * (4 * square + gate + down)
    macs = 2 * (4 * 13 * 13 + 3 * 13 * 20)
    works = work(MODEL)
    # The rows of the gate are padded by halves in beats of V: 20 is five of them.
    assert works[Phase.PROMPT] == Work(words=layers, macs=macs, padding=1 - macs / (64 * layers))
    with_head = macs + 13 * 50
    words = layers + head
    assert works[Phase.DECODING] == Work(words=words, macs=with_head, padding=1 - with_head / (64 * words))


def test_figures():
    """Each by its formula, from known counters."""
    before = {counter: 1000 + counter for counter in Counter}
    advance = {
        Counter.CYCLES: 9999,  # with cycles in which no session ran
        Counter.TOKENS: 20,
        Counter.GENERATED: 8,
        Counter.BUSY: 5000,
        Counter.WAIT_VECTOR: 2500,
        Counter.WAIT_SCALAR: 300,
        Counter.WAIT_CONTROL: 200,
    }
    after = {counter: before[counter] + advance.get(counter, 0) for counter in Counter}
    measurement = measured(before, after, all_tokens=30, seconds=4.0)
    figures = measurement.figures(Work(words=250, macs=12_000, padding=0.25), lanes=64, clock_hz=1_000_000)
    assert figures == {
        "tokens": 20,
        "cycles": 8000,
        "busy": 5000,
        "waits": {"weights": 0, "vector": 2500, "scalar": 300, "control": 200, "link": 0},
        "all_tokens": 30,
        "seconds": 4.0,
        "cycles_per_token": 400.0,
        "tokens_per_second": 2500.0,
        "lanes_busy": 0.625,
        "wait_shares": {"weights": 0.0, "vector": 0.3125, "scalar": 0.0375, "control": 0.025, "link": 0.0},
        "useful": 0.46875,
        "macs_per_cycle": 30.0,
        "wall_tokens_per_second": 7.5,
    }


def test_bench(device, model):
    """On the modelled device, whose lanes never wait: the counters' advance is the compiler's words."""
    report = bench(device, prompt=32, tokens=40)
    assert report["request"] == {"prompt": 32, "tokens": 40}
    assert report["device"]["lanes"] == GEOMETRY.lanes
    assert [run["sessions"] for run in report["runs"]] == [1, 2]
    for phase, needed in work(MODEL).items():
        limit = report["limits"][phase.value]
        assert limit["words"] == needed.words
        assert limit["limit_tokens_per_second"] == pytest.approx(1_000_000 / needed.words)
        alone, both = (run[phase.value] for run in report["runs"])
        tokens = {Phase.PROMPT: 32, Phase.DECODING: 40}[phase]
        assert (alone["tokens"], alone["all_tokens"], both["all_tokens"]) == (tokens, tokens, 2 * tokens)
        # Of two, what ran before the second began and after the first had ended does not count.
        assert 8 <= both["tokens"] < 2 * tokens
        for figures in (alone, both):
            assert figures["busy"] == figures["cycles"] == needed.words * figures["tokens"]
            assert figures["cycles_per_token"] == needed.words
            assert figures["useful"] == pytest.approx(needed.macs / (64 * needed.words))
    statuses = [device.session(slot).status() for slot in range(3)]
    # The ring of 16 did not stop them: their tokens are given up.
    assert [(status.finish, status.generated) for status in statuses] == [
        (Finish.LENGTH, 40),
        (Finish.LENGTH, 40),
        (Finish.NONE, 0),
    ]
    assert set(report["sources"]) >= set(report["runs"][0]["prompt"]) - set(Measurement.__annotations__)


@pytest.mark.parametrize(
    ("running", "window"),
    [
        ([(1, 1), (1, 1), (1, 1), (0, 1), (0, 0)], (0, 2)),
        ([(1, 1), (1, 0), (0, 0)], (0, 0)),
        ([(0, 1), (0, 1), (0, 0)], (0, 0)),  # one ended before the other began
    ],
)
def test_the_window_ends_with_the_first_session(running, window):
    """Reading n of the counters says n tokens, and is followed by the n-th look at the sessions."""
    readings = count()
    device = SimpleNamespace(counters=lambda: {Counter.TOKENS: next(readings)})
    looks = [iter(column) for column in zip(*running, strict=True)]
    sessions = [SimpleNamespace(discard=lambda look=look: SimpleNamespace(running=bool(next(look)))) for look in looks]
    first, last = bench_module._run(device, sessions)
    assert (first[Counter.TOKENS], last[Counter.TOKENS]) == window


def test_the_report_is_plain(device):
    report = bench(device, prompt=4, tokens=4, sessions=[1])
    assert json.loads(json.dumps(report)) == report


def test_sessions_that_do_not_run_together(device):
    """Too short to be measured; the command says so."""
    report = bench(device, prompt=2, tokens=2, sessions=[1, 3])
    assert report["runs"][1] == {"sessions": 3, "prompt": None, "decoding": None}
    assert report["runs"][0]["prompt"]["tokens"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": 0}, "the prompt of a bench must be from 1 to 32 tokens on this device, not 0"),
        ({"prompt": 33}, "the prompt of a bench must be from 1 to 32 tokens on this device, not 33"),
        ({"tokens": 0}, "a bench must generate at least 1 token, not 0"),
        ({"sessions": [1, 4]}, "a bench's number of sessions must be from 1 to 3 slots on this device, not 4"),
        ({"sessions": [0]}, "a bench's number of sessions must be from 1 to 3 slots on this device, not 0"),
    ],
)
def test_refusals(device, options, message):
    with pytest.raises(RequestError, match=message):
        bench(device, **{"prompt": 8, "tokens": 8} | options)


def test_a_device_that_stands_still(device, model, monkeypatch):
    monkeypatch.setattr(bench_module, "ABORT_SECONDS", 0)
    monkeypatch.setattr(model.bus, "run_token", lambda: False)
    monkeypatch.setattr(type(device.session()), "abort", lambda session: None)
    with pytest.raises(DeviceError, match="no token was finished for 0 s: reset the device"):
        bench(device, prompt=8, tokens=8, sessions=[1])


def test_an_interrupt_ends_all_sessions(device, monkeypatch):
    counters, readings = device.counters, []

    def interrupted():
        readings.append(1)
        if len(readings) > 3:
            raise KeyboardInterrupt
        return counters()

    monkeypatch.setattr(device, "counters", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench(device, prompt=32, tokens=8, sessions=[3])
    finishes = [device.session(slot).status()[:2] for slot in range(3)]
    assert finishes == [(False, Finish.ABORTED)] * 3


# The driver's part.


def test_a_started_request_is_that_of_generate(device):
    """The state that is left is the same, whether the tokens are taken or not."""
    session = device.session(1)
    expected = list(session.generate([3, 4, 5], 40, SAMPLING))
    wanted = session.save().states
    session.start([3, 4, 5], 40, SAMPLING)
    while (status := session.discard()).running:
        assert status.generated < 40
    assert (status.finish, status.generated) == (Finish.LENGTH, 40)
    assert (session.save().states == wanted).all()
    # It can be continued, as any other.
    golden = list(device.session(2).generate([3, 4, 5], 43, SAMPLING))
    assert list(session.generate([expected[-1]], 3, SAMPLING, keep_state=True)) == golden[40:]


def test_start_refuses_what_the_device_cannot_take(device):
    with pytest.raises(RequestError, match="the prompt must have at most 32 tokens on this device, not 33"):
        device.session().start([1] * 33, 4, SAMPLING)
    with pytest.raises(RequestError, match="token 50 is not in the vocabulary"):
        device.session().start([50], 4, SAMPLING)
    device.session().start([1], 1000, SAMPLING)
    with pytest.raises(DeviceError, match="is running and cannot be started again"):
        device.session().start([1], 4, SAMPLING)
    device.session().abort()


# The command.


@pytest.fixture
def board(model, monkeypatch) -> DeviceModel:
    """What `--device board` opens."""
    monkeypatch.setattr(connect, "open_transport", lambda url, *, baud: model)
    return model


@pytest.fixture(scope="module")
def image_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("images") / "tiny.ternlight"
    IMAGE.save(path)
    return path


def run(image: Path, *options: object) -> int:
    return main(["bench", str(image), *map(str, options), "--device", "board"])


def test_json(board, image_file, capsys):
    assert run(image_file, "--json", "--prompt", 8, "-n", 16, "--sessions", "1,2") == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"model", "device", "request", "limits", "runs", "sources", "command"}
    assert report["model"] == {
        "name": "tiny",
        "identity": f"{MODEL.identity:08x}",
        "ternary_weights": MODEL.macs,
        "vocabulary": 50,
    }
    assert report["device"]["geometry"]["clock_hz"] == report["device"]["clock_hz"] == 1_000_000
    assert (report["device"]["url"], report["device"]["simulated"], report["device"]["board"]) == ("board", False, None)
    options = "--sessions 1,2 --prompt 8 --tokens 16 --device board"
    assert report["command"] == f"ternlight bench {image_file} {options}"
    assert board.closed


def known_report() -> dict:
    """A report with round figures, and one phase that was not measured."""
    works = {
        Phase.PROMPT: Work(words=200, macs=9_600, padding=0.25),
        Phase.DECODING: Work(words=250, macs=16_000, padding=0.0),
    }
    figures = {}
    for phase, words in ((Phase.PROMPT, 200), (Phase.DECODING, 250)):
        waits = {"weights": 0, "vector": 20 * (300 - words), "scalar": 1_500, "control": 500, "link": 0}
        measurement = Measurement(tokens=20, cycles=8_000, busy=20 * words, waits=waits, all_tokens=20, seconds=8.0)
        figures[phase.value] = measurement.figures(works[phase], lanes=64, clock_hz=2_000_000)
    return {
        "model": {"name": "tiny", "identity": "00000001", "ternary_weights": 16_000, "vocabulary": 50},
        "device": {
            "build_id": "0000abcd",
            "lanes": 64,
            "clock_hz": 2_000_000,
            "url": "sim",
            "simulated": True,
            "board": None,
        },
        "request": {"prompt": 20, "tokens": 20},
        "limits": {
            "prompt": {"words": 200, "macs": 9_600, "padding": 0.25, "limit_tokens_per_second": 10_000.0},
            "decoding": {"words": 250, "macs": 16_000, "padding": 0.0, "limit_tokens_per_second": 8_000.0},
        },
        "runs": [{"sessions": 1, **figures}, {"sessions": 2, "prompt": None, "decoding": figures["decoding"]}],
        "sources": bench_module.SOURCES,
        "command": "ternlight bench",
    }


TABLE = """\
tiny (16,000 ternary weights) on the simulated device: 64 lanes, 2 MHz, build 0000abcd; prompts of 20 tokens, then 20 \
generated by each session

sessions                                              prompt 1  prompt 2  decoding 1  decoding 2  from
cycles per token                                           400         -         400         400  counters
tokens/s at 2 MHz                                        5,000         -       5,000       5,000  derived
lanes busy                                               50.0%         -       62.5%       62.5%  counters
waiting: weights                                          0.0%         -        0.0%        0.0%  counters
waiting: vector                                          25.0%         -       12.5%       12.5%  counters
waiting: scalar                                          18.8%         -       18.8%       18.8%  counters
waiting: control                                          6.2%         -        6.2%        6.2%  counters
waiting: link                                             0.0%         -        0.0%        0.0%  counters
useful work of the lanes                                 37.5%         -       62.5%       62.5%  derived
weights per cycle                                           24         -          40          40  derived
roofline: weight words per token                           200       200         250         250  compiler
padding in these words                                   25.0%     25.0%        0.0%        0.0%  compiler
tokens/s if the lanes never waited                      10,000    10,000       8,000       8,000  derived
tokens/s of the simulation, by the clock on the wall       2.5         -         2.5         2.5  measured
-: the first session ended too early; measure more tokens."""


def test_the_table():
    """To the letter, but for the formulas behind the sources."""
    report = known_report()
    report["sources"] = {name: source.partition(":")[0] for name, source in report["sources"].items()}
    assert text(report) == TABLE


def test_the_command_prints_the_table(board, image_file, capsys):
    assert run(image_file, "--prompt", 2, "-n", 8, "--sessions", "1,3") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("tiny (")
    assert "sessions " in printed
    assert printed.endswith(f"{NOT_TOGETHER}\n")


def refused(capsys, code: int, *arguments: object) -> str:
    assert main(["bench", *map(str, arguments)]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err.splitlines()[-1].removeprefix("ternlight: ")


@pytest.mark.parametrize("shape", ["13x20x2", "13x20x2x0", "13x20x2x50x1", "axbxcxd", "-1x2x3x4"])
def test_a_shape_that_is_none(capsys, shape):
    message = refused(capsys, RequestError.exit_code, f"--random={shape}")
    assert message == f"--random must be HIDDENxINTERMEDIATExLAYERSxVOCABULARY, four positive integers, not '{shape}'"


def test_a_random_model(board, capsys):
    assert main(["bench", "--random", "13x20x2x50", "--device", "board", "--json", "-n", "6"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["model"]["name"], report["model"]["ternary_weights"]) == ("random-13x20x2x50", MODEL.macs)
    assert report["command"] == "ternlight bench --random 13x20x2x50 --tokens 6 --device board"
    # By default as many tokens as the smaller of 64 and the device's buffer, and sessions as it has slots for.
    assert report["request"] == {"prompt": 32, "tokens": 6}
    assert [run["sessions"] for run in report["runs"]] == [1, 2]


def test_a_random_model_that_does_not_fit(board, capsys):
    message = refused(capsys, FitError.exit_code, "--random", "90x20x2x50", "--device", "board")
    assert "raise activations" in message


def test_sessions_that_are_no_numbers(capsys):
    message = refused(capsys, RequestError.exit_code, "--sessions", "1,two")
    assert message == "--sessions must be numbers with commas between them, not '1,two'"


def test_a_board_is_simulated(capsys, image_file):
    pytest.importorskip("amaranth_boards", reason="boards need ternlight[fpga]")
    message = refused(capsys, RequestError.exit_code, image_file, "--board", "ulx3s-85f", "--device", "/dev/board")
    assert message == "--board is what the simulator simulates: leave it out for --device /dev/board"
    assert "there is no board nonesuch" in refused(capsys, BuildError.exit_code, image_file, "--board", "nonesuch")


def test_the_board_gives_the_geometry(image_file, monkeypatch, capsys):
    boards = pytest.importorskip("ternlight_boards.board", reason="boards need ternlight[sim]")
    opened = []

    class Found:
        geometry = GEOMETRY

    def open_device(url, *, geometry, **_):
        opened.append((url, geometry))
        raise BuildError("far enough")

    monkeypatch.setattr(boards, "find_board", lambda name: Found)
    monkeypatch.setattr(connect, "open_device", open_device)
    assert refused(capsys, BuildError.exit_code, image_file, "--board", "big") == "far enough"
    assert opened == [("sim", GEOMETRY)]


# The page.

MODULES = {
    "board": "big",
    "build_id": "0000abcd",
    "lanes": 64,
    "command": "count",
    "modules": {
        "core.engine": {"lut4": 640, "ff": 1, "block_ram": 2, "dsp": 0},
        "core": {"lut4": 32, "ff": 3, "block_ram": 0, "dsp": 4},
    },
}
PAGE = "\n".join(f"<!-- {name}: generated -->\n<!-- {name}: end -->\ntext" for name in blocks([], []))


def test_blocks():
    parts = blocks([known_report()], [MODULES])
    assert "| cycles per token | 400 | - | 400 | 400 | counters: (BUSY + waits) / TOKENS |" in parts["bench"]
    assert parts["bench"].startswith("`ternlight bench`:\ntiny (16,000")
    assert parts["bench"].endswith(NOT_TOGETHER)
    ours = parts["ours"].splitlines()[-1]
    assert ours == (
        "| ternlight on the simulated device, at a nominal 2 MHz that no board has met | 1 | tiny, 0.02 M weights "
        "| 5,000 | 40 of 64 (62%) | 62% of the weight store's |"
    )
    # Without the 1,500 cycles of scalars, 6,500 would be left.
    assert "one session decoding: waiting for **scalar** takes 18.8% of the cycles" in parts["bottleneck"]
    assert "there would be 6,154 tokens/s instead of 5,000" in parts["bottleneck"]
    assert parts["modules"].startswith("`count`: big, build 0000abcd, 64 lanes.\n")
    assert "| core.engine | 640 | 10.0 | 1 | 2 | 0 |" in parts["modules"]
    assert "| all | 672 | 10.5 | 4 | 2 | 4 |" in parts["modules"]


def test_a_report_without_decoding_has_no_row():
    report = known_report()
    report["runs"] = [report["runs"][0] | {"decoding": None}]
    parts = blocks([report], [])
    assert (len(parts["ours"].splitlines()), parts["bottleneck"]) == (2, "")


def test_a_page_is_renewed(board, image_file, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert run(image_file, "--page", page, "--prompt", 8, "-n", 8, "--sessions", "1", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert load(tmp_path / BENCH_REPORTS) == [report]
    assert page.read_text() == fill(PAGE, blocks([report], []), name="page")
    assert page.read_text().count("\ntext") == PAGE.count("\ntext")
    written = page.read_text()
    renew_page(page)
    assert page.read_text() == written


def test_a_page_without_markers_is_refused_before_anything_is_measured(capsys, image_file, tmp_path):
    page = tmp_path / "page.md"
    assert "page.md cannot be read: No such file" in refused(
        capsys, RequestError.exit_code, image_file, "--page", page, "--device", "/dev/none"
    )
    page.write_text("no markers")
    message = refused(capsys, RequestError.exit_code, image_file, "--page", page, "--device", "/dev/none")
    assert message.endswith(
        "page.md lacks the markers <!-- bench: generated --> and <!-- bench: end -->: figures go between them"
    )


def test_the_page_agrees_with_the_kept_reports():
    page = (DOCS / "performance.md").read_text()
    reports = load(DOCS / BENCH_REPORTS)
    assert reports
    assert fill(page, blocks(reports, load(DOCS / MODULE_REPORTS)), name="docs/performance.md") == page
