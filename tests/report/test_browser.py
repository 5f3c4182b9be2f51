"""A real browser opens the page: something is seen, in light and in dark, and the console stays silent."""

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from voxpair.report.page import write_report

QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--v=0",
]


@pytest.fixture(scope="session")
def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine; the other tests read the page without a browser")
    return found


def photograph(chromium, page, picture, profile, *options):
    command = [chromium, *QUIET, f"--user-data-dir={profile}", "--window-size=1200,1600", *options]
    done = subprocess.run(
        [*command, f"--screenshot={picture}", page.as_uri()], capture_output=True, text=True, timeout=100, check=False
    )
    assert picture.is_file(), done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr
    return np.asarray(Image.open(picture).convert("L"), float)


def test_the_page_in_a_browser(chromium, run_folder, tmp_path):
    page = write_report(run_folder)
    light = photograph(chromium, page, tmp_path / "light.png", tmp_path / "profile")
    dark = photograph(
        chromium, page, tmp_path / "dark.png", tmp_path / "profile2", "--blink-settings=preferredColorScheme=0"
    )
    assert (tmp_path / "light.png").stat().st_size > 30_000
    assert light.std() > 20 and dark.std() > 20  # not blank
    assert np.median(light) > 200 and np.median(dark) < 50  # the page follows the reader's colour scheme
    assert np.ptp(light[-400:]) > 100  # and is not cut short
