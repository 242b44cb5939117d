"""Training: the model against the float reference, its gradients, the order of data, and resuming to the bit."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch

from ternlight.checkpoint import Checkpoint, tensor_shapes
from ternlight.config import ModelConfig
from ternlight.errors import RequestError
from ternlight.tokenizer import Tokenizer
from ternlight.training.corpus import VOCABULARY_MIN, Windows, encode, read_texts, train_tokenizer
from ternlight.training.model import TernaryProduct, TrainedModel
from ternlight.training.run import STATE_FILE, HeldOut, Run, Settings
from ternlight.training.scan import chunk_length, recur, scan
from ternlight_sim.float_reference import FloatReference

CONFIG = ModelConfig(hidden=24, intermediate=40, layers=3, vocabulary=64)
TOKENIZER = b'{"not": "read"}'


def tokens(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(CONFIG.vocabulary, size=count)


def trained_model(seed: int, config: ModelConfig = CONFIG) -> TrainedModel:
    """A model whose parameters are all random, gains and lower bounds too."""
    torch.manual_seed(seed)
    model = TrainedModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) + (parameter.ndim == 1))
    return model


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads that wait for each other make small models slow where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# The recurrence.


@pytest.mark.parametrize("times", [1, 2, 7, 12, 16, 30])
@pytest.mark.parametrize("reverse", [False, True])
def test_recurrence_in_chunks_is_the_recurrence(times, reverse):
    torch.manual_seed(times)
    forget, source = torch.rand(2, times, 3, 5, dtype=torch.float64)
    h, expected = torch.zeros(3, 5, dtype=torch.float64), torch.empty(times, 3, 5, dtype=torch.float64)
    for step in reversed(range(times)) if reverse else range(times):
        expected[step] = h = forget[step] * h + source[step]
    torch.testing.assert_close(recur(forget, source, reverse=reverse), expected, rtol=1e-14, atol=1e-14)


def test_gradient_of_the_recurrence():
    torch.manual_seed(0)
    forget, source = (torch.rand(12, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(scan, (forget, source))
    torch.library.opcheck(scan, (forget, source))


def test_chunks_are_about_as_many_as_their_times():
    assert [chunk_length(times) for times in (1, 2, 9, 10, 256, 512, 13)] == [1, 1, 3, 5, 16, 32, 13]


# The model.


def test_parameters_are_the_tensors_of_a_checkpoint():
    shapes = {name: tuple(parameter.shape) for name, parameter in TrainedModel(CONFIG).named_parameters()}
    assert shapes == tensor_shapes(CONFIG)


@pytest.mark.parametrize("lower_bound", [True, False])
def test_model_is_the_float_reference(lower_bound):
    config = ModelConfig(hidden=24, intermediate=40, layers=3, vocabulary=64, lower_bound=lower_bound)
    model = trained_model(1, config)
    tensors = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    reference = FloatReference.from_checkpoint(Checkpoint(config=config, tensors=tensors))
    text = tokens(12 * 5).reshape(12, 5)
    with torch.no_grad():
        logits = model.double().logits(torch.from_numpy(text)).numpy()
    state = reference.initial_state(5)
    for step, row in enumerate(text):
        expected, state = reference.step(row, state)
        # Lower bounds and the scales of the weights are single precision in the reference.
        np.testing.assert_allclose(logits[step], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_loss_is_the_cross_entropy_of_the_next_tokens():
    model, text = trained_model(2), torch.from_numpy(tokens(9 * 4).reshape(9, 4))
    with torch.no_grad():
        nats = -model.logits(text[:-1]).log_softmax(-1).gather(-1, text[1:, :, None])
        torch.testing.assert_close(model(text), nats.mean())


def test_gradients_pass_straight_through_the_rounding():
    torch.manual_seed(3)
    v, weight = torch.randn(32, 24, requires_grad=True), torch.randn(16, 24, requires_grad=True)
    scale = 127 / v.abs().amax(-1, keepdim=True)
    beta = weight.abs().mean()
    rounded_v = v + ((v * scale).round() / scale - v).detach()
    rounded_weight = weight + ((weight / beta).round().clamp(-1, 1) * beta - weight).detach()
    published = rounded_v @ rounded_weight.T
    own = TernaryProduct.apply(v, weight)
    torch.testing.assert_close(own, published, rtol=1e-5, atol=1e-5)
    by = torch.randn(32, 16)
    expected = torch.autograd.grad(published, (v, weight), by)
    # One factor of the gradients' products is rounded to bfloat16, and so is their sum.
    for gradient, exact in zip(torch.autograd.grad(own, (v, weight), by), expected, strict=True):
        torch.testing.assert_close(gradient, exact, rtol=0, atol=float(exact.abs().max()) * 2**-7)


# The compiler's tracer asks tensors for .grad to see whether they are leaves, and makes objects that warn.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor", "ignore:.*should not be instantiated")
def test_compiling_changes_nothing():
    plain, traced = trained_model(4), trained_model(4)
    traced.compile_parts("aot_eager")
    text = torch.from_numpy(tokens(17 * 2).reshape(17, 2))
    for model in (plain, traced):
        model(text).backward()
    for one, other in zip(plain.parameters(), traced.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


# Text.


def test_tokenizer_encodes_everything(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the cat and the hat\n" * 20, encoding="utf-8")
    texts = read_texts([path])
    data = train_tokenizer(texts, 270)
    tokenizer = Tokenizer(data)
    assert tokenizer.vocabulary == 270
    strange = "Zoë said: «日本語» \t\x00 🦊 </s> <unk>"
    assert tokenizer.unencodable(strange) == []
    assert tokenizer.decode(tokenizer.encode(strange)) == strange
    assert encode(texts, data).tolist() == tokenizer.encode(texts[0])
    # "the " is one token, at most.
    assert len(tokenizer.encode("the")) == 1


def test_windows_of_an_epoch_cover_the_text():
    windows = Windows(np.arange(1000), times=16, batch=7, seed=5)
    orders = []
    numbers = iter(windows.read(step)[:, place] for step in range(60) for place in range(7))
    for _ in range(3):
        epoch = [next(numbers) for _ in range(windows.count)]
        assert all((np.diff(window) == 1).all() and len(window) == 17 for window in epoch)
        starts = [int(window[0]) for window in epoch]
        assert np.diff(sorted(starts)).tolist() == [16] * (windows.count - 1)
        assert min(starts) < 16
        assert max(starts) >= 1000 - 3 * 16
        orders.append(starts)
    assert all(one != other for one, other in itertools.combinations(orders, 2))
    np.testing.assert_array_equal(windows.read(2), Windows(np.arange(1000), times=16, batch=7, seed=5).read(2))


# Runs.


def new_run(directory, *, text=None, compiled=False, **changes) -> Run:
    settings = Settings(**{"steps": 8, "times": 8, "batch": 4, "warmup": 2, "seed": 6, **changes})
    text = tokens(400) if text is None else text
    return Run(CONFIG, settings, text, tokenizer=TOKENIZER, directory=directory, compiled=compiled)


def parameters(run: Run) -> dict[str, np.ndarray]:
    return {name: parameter.detach().numpy().copy() for name, parameter in run.model.named_parameters()}


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = new_run(tmp_path / "whole")
    whole.train()
    part = new_run(tmp_path / "part")
    part.train(stop=lambda: part.step == 3)
    assert part.step == 3
    resumed = new_run(tmp_path / "part")
    assert resumed.step == 3
    resumed.train()
    assert resumed.loss == whole.loss
    for name, values in parameters(whole).items():
        np.testing.assert_array_equal(values, parameters(resumed)[name], err_msg=name)
    other = new_run(tmp_path / "other", seed=7)
    other.train()
    assert other.loss != whole.loss


def test_checkpoints_are_read_by_the_importer(tmp_path):
    run = new_run(tmp_path)
    run.train()
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.config == ModelConfig(**{**vars(CONFIG), "name": tmp_path.name})
    assert checkpoint.tokenizer == TOKENIZER
    for name, values in parameters(run).items():
        np.testing.assert_array_equal(checkpoint.tensor(name), values)


def test_learning_rate_rises_then_falls_to_zero(tmp_path):
    run = new_run(tmp_path, steps=10, warmup=1, rate=0.5)
    rates = []
    run.train(report=lambda report: rates.append(run.rate))
    assert rates == pytest.approx([0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0])
    assert new_run(tmp_path / "fresh", steps=10, warmup=1, rate=0.5).rate == 0.25


def test_a_run_by_minutes_ends_in_time(tmp_path):
    run = new_run(tmp_path, steps=None, minutes=0.01)
    reports = []
    run.train(report=reports.append)
    assert reports[-1].done == 1
    assert reports[-1].seconds_left == 0
    assert [report.done for report in reports] == sorted(report.done for report in reports)
    assert run.seconds >= 0.6


def test_compiling_is_not_training_time(tmp_path, monkeypatch):
    def compile_parts(model):
        # Stands for the compiler: the first run of the model takes long.
        def slow(*_):
            time.sleep(0.5)
            handle.remove()

        handle = model.register_forward_pre_hook(slow)

    plain = new_run(tmp_path / "plain")
    plain.train()
    monkeypatch.setattr(TrainedModel, "compile_parts", compile_parts)
    run = new_run(tmp_path / "compiled", compiled=True)
    begun = time.monotonic()
    run.train()
    assert run.seconds < time.monotonic() - begun - 0.5
    assert run.loss == plain.loss


def test_training_learns(tmp_path):
    pattern = np.tile(np.arange(40), 30)
    run = new_run(tmp_path, text=pattern, steps=200)
    held_out = HeldOut.of(pattern[:200], 200)
    before = held_out.bits_per_byte(run.model, "cpu")
    run.train(held_out=held_out)
    assert before > 5 > 1 > run.held_out
    assert run.loss < before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 0.5}, f"{STATE_FILE} is of a run with other values of rate: give the same ones to resume it"),
        ({"batch": 5, "seed": 1}, "of a run with other values of batch, seed"),
    ],
)
def test_refuses_to_resume_with_other_settings(tmp_path, changes, message):
    new_run(tmp_path, steps=1).train()
    with pytest.raises(RequestError, match=message):
        new_run(tmp_path, **changes)
    # A longer run is another matter.
    assert new_run(tmp_path, steps=2).step == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: Settings(), "a run needs either a number of steps or a number of minutes"),
        (lambda path: Settings(steps=1, minutes=1), "a run needs either"),
        (lambda path: Settings(steps=0), "steps must be positive, not 0"),
        (lambda path: Settings(steps=1, rate=-0.5), r"rate must be positive, not -0\.5"),
        (lambda path: Settings(steps=1, warmup=-1), "warmup must not be negative, not -1"),
        (lambda path: Windows(tokens(32), times=16, batch=1, seed=0), "need a text of at least 33 tokens, not 32"),
        (lambda path: HeldOut.of(tokens(65), 65), "a held-out text needs more than 65 tokens, not 65"),
        (lambda path: train_tokenizer(["a"], 258), f"must have at least {VOCABULARY_MIN} tokens .* not 258"),
        (lambda path: train_tokenizer(["abab"], 300), "a vocabulary of 261 tokens only, not 300: take more text"),
        (lambda path: read_texts([path / "absent"]), "absent cannot be read: No such file"),
    ],
)
def test_refuses(tmp_path, call, message):
    with pytest.raises(RequestError, match=message):
        call(tmp_path)


def test_refuses_folders_and_devices(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="file cannot be a run's folder: File exists"):
        new_run(tmp_path / "file")
    with pytest.raises(RequestError, match=r"device abacus cannot be used \(.+\): name another, or cpu"):
        Run(CONFIG, Settings(steps=1), tokens(600), tokenizer=TOKENIZER, directory=tmp_path, device="abacus")
    new_run(tmp_path, steps=1).train()
    state = (tmp_path / STATE_FILE).read_bytes()
    for damaged in (b"", b"damaged", state[: len(state) // 2]):
        (tmp_path / STATE_FILE).write_bytes(damaged)
        with pytest.raises(RequestError, match=f"{STATE_FILE} is damaged: remove it to begin anew"):
            new_run(tmp_path)


def test_refuses_texts(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "latin").write_bytes(b"caf\xe9 noir")
    with pytest.raises(RequestError, match="empty is empty: name a text file"):
        read_texts([tmp_path / "empty"])
    with pytest.raises(RequestError, match=r"latin is not UTF-8 text .* at byte 3"):
        read_texts([tmp_path / "latin"])
