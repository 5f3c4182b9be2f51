"""A real browser opens the page: it is seen in light and dark, the 3D view draws, keys work, no network is asked."""

import shutil

import numpy as np
import pytest
from chromium import Chromium

from voxpair.report.page import write_report

PANEL, CANVAS, STATUS, CASE = (f"document.getElementById('viewer-{n}')" for n in ("panel", "canvas", "status", "case"))


@pytest.fixture(scope="session")
def program() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine; the other tests read the page without a browser")
    return found


def assert_silent(browser, page) -> None:
    asked = {address for address in browser.requests if not address.startswith("data:")}
    assert browser.complaints == [] and {address.split("#")[0] for address in asked} == {page.as_uri()}


def choose(browser, element, value, event) -> None:
    browser.evaluate(f"{element}.value = '{value}'; {element}.dispatchEvent(new Event('{event}'))")


def blue(picture) -> float:
    """Share of blue pixels: those of structure LA, since lines are yellow and all else is grey."""
    return float((picture[..., 2] - picture[..., 0] > 12).mean())


def test_the_page_in_light_and_dark_and_its_3d_view(program, drawn_page, tmp_path):
    with Chromium(program, tmp_path / "profile", size=(480, 400)) as browser:
        for dark in (True, False):
            browser.open(drawn_page.as_uri(), dark=dark)
            seen = browser.photograph()
            assert seen.std() > 20  # not blank
            assert np.median(seen) < 50 if dark else np.median(seen) > 200  # the reader's colour scheme
        assert not browser.evaluate("'niivue' in globalThis")  # the library waits until it is wanted
        browser.evaluate(f"{PANEL}.open = true")
        browser.wait(f"{PANEL}.dataset.state === 'ready'")

        labelled = browser.photograph(".stage")
        assert labelled.std() > 20 and blue(labelled) > 0.01
        choose(browser, "document.getElementById('viewer-labels')", 0, "input")
        assert blue(browser.photograph(".stage")) < blue(labelled) / 10

        browser.evaluate(f"{CANVAS}.focus()")
        place = browser.evaluate(f"{STATUS}.textContent")
        browser.press("ArrowLeft")
        browser.wait(f"{STATUS}.textContent !== {place!r}")
        moved = browser.evaluate(f"{STATUS}.textContent")
        assert moved.split(", ")[1] == place.split(", ")[1]  # along x alone

        browser.evaluate("document.getElementById('viewer-solid').click()")
        solid = browser.photograph(".stage")
        browser.press("ArrowRight")
        assert solid.std() > 5 and np.abs(browser.photograph(".stage") - solid).mean() > 0.5

        choose(browser, CASE, 3, "change")
        browser.wait(f"{PANEL}.dataset.shown === '3'")
        assert "Synthetic: s1" in browser.evaluate(f"{CANVAS}.getAttribute('aria-label')")
        assert_silent(browser, drawn_page)


def test_without_webgl_the_page_says_so_and_what_is_foreign_does_not_run(program, run_folder, undrawn, tmp_path):
    page = write_report(run_folder)
    foreign = (("script", "textContent", "window.ran = 1"), ("img", "src", "http://127.0.0.1:9/x.png"))
    with Chromium(program, tmp_path / "profile", "--disable-3d-apis", size=(480, 400)) as browser:
        browser.open(page.as_uri() + "#viewer")  # the section's address opens it
        browser.wait(f"{PANEL}.dataset.state === 'absent'")
        assert "no WebGL 2" in browser.evaluate(f"{STATUS}.textContent")
        assert_silent(browser, page)
        for tag, key, value in foreign:
            element = f"Object.assign(document.createElement('{tag}'), {{{key}: '{value}'}})"
            browser.evaluate(f"document.body.append({element})")
        assert not browser.evaluate("'ran' in window")
        refused = [found["text"] for found in browser.complaints if isinstance(found, dict)]
        assert len(refused) == 2 and all("Content Security Policy" in text for text in refused)
