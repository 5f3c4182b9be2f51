"""The examples run, in order, on phantoms; they are the map of the package."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_examples_run_in_order(tmp_path):
    scripts = sorted(EXAMPLES.glob("[1-9]_*.py"))
    assert len(scripts) == 9
    for script in scripts:
        result = subprocess.run(
            [sys.executable, script, tmp_path],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert result.returncode == 0, f"{script.name}\n{result.stderr}"
        assert result.stdout.strip(), f"{script.name} shows nothing"
    assert (tmp_path / "demo/report.html").stat().st_size > 50_000


def test_each_example_fits_on_a_screen():
    for script in EXAMPLES.glob("[1-9]_*.py"):
        assert len(script.read_text().splitlines()) <= 25, script.name
