"""The web page in a real browser; skipped where no Chromium is installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from ternlight.sampling import Sampling
from ternlight.story import story as story_of

from .conftest import golden_text, wait_until
from .test_app import KEY, Serving

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright: ternlight[dev]")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, engine) -> Iterator[playwright.Page]:
    serving = Serving(engine, [])
    page = browser.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: request.url.startswith(serving.url) or troubles.append(request.url))
    page.goto(serving.url)
    playwright.expect(page.locator("#model")).to_have_text("tiny")
    yield page
    page.close()
    serving.close()
    assert troubles == []


def settings(page, **values: object) -> None:
    for name, value in values.items():
        page.fill(f"#{name}", str(value))


def story(page) -> str:
    return page.text_content("#story")


def finished(page) -> None:
    playwright.expect(page.locator("#go")).to_be_enabled(timeout=20_000)


def test_a_story_in_turns(page):
    """Answers stream into the page, and the next turn goes on with the whole text."""
    settings(page, text="A bear", tokens=12, temperature=0, seed=1)
    page.click("#go")
    finished(page)
    first = "A bear" + golden_text("A bear", 12, Sampling(temperature=0))
    assert story(page) == first
    assert "12 tokens, " in page.text_content("#state")
    # Nothing entered: the model goes on by itself. Enter is the button.
    page.press("#text", "Enter")
    finished(page)
    second = first + golden_text(first, 12, Sampling(temperature=0))
    assert story(page) == second
    page.fill("#text", "It sat")
    page.press("#text", "Enter")
    finished(page)
    answer = golden_text(story_of([("user", second), ("user", "It sat")]), 12, Sampling(temperature=0))
    assert story(page) == f"{second}\n\nIt sat{answer}"
    page.click("#new")
    assert story(page) == ""


def test_stop_aborts_on_the_device(page, hardware, engine):
    hardware.pause = 0.001
    settings(page, text="A bear", tokens=4096, temperature=1.5)
    page.click("#go")
    wait_until(lambda: len(story(page)) > 20)
    page.click("#stop")
    finished(page)
    assert page.text_content("#state") == "stopped"
    wait_until(lambda: not hardware.model.bus.sessions.running)
    wait_until(lambda: engine.health()["running"] == 0)


def test_refusals_are_shown(page):
    settings(page, text="A bear", top_k=4000)
    page.click("#go")
    finished(page)
    assert "top-k must be at most 64 on this device" in story(page)


def test_text_is_text(page):
    """Nothing that is entered becomes a part of the page."""
    settings(page, text="<img src=x onerror=document.title='bad'>", tokens=2)
    page.click("#go")
    finished(page)
    assert story(page).startswith("<img src=x")
    assert page.title() == "ternlight"


def test_a_key_is_asked_for(browser, engine):
    serving = Serving(engine, [KEY])
    page = browser.new_page()
    page.goto(serving.url)
    playwright.expect(page.locator("#state")).to_contain_text("this server wants an API key")
    settings(page, text="A bear", tokens=3, temperature=0, key=KEY)
    page.click("#go")
    finished(page)
    assert story(page) == "A bear" + golden_text("A bear", 3, Sampling(temperature=0))
    page.close()
    serving.close()
