"""Imports go down only, and what must answer at once does not load torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_import_contracts_hold():
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("words", [["--help"], ["info", "--json"], ["segment", "fit", "--help"]])
def test_help_and_info_do_not_import_torch(words):
    code = (
        "import sys; sys.argv = ['voxpair', *WORDS]\n"
        "from voxpair.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code in (0, None), end.code\n"
        "assert 'torch' not in sys.modules and 'monai' not in sys.modules, 'torch was imported'".replace(
            "WORDS", repr(words)
        )
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    if "--json" in words:
        assert "cardiac8" in json.loads(result.stdout)["label_tables"]


def test_no_file_outgrows_one_idea():
    long = {
        path.name: n
        for path in (ROOT / "src").rglob("*.py")
        if (n := len(path.read_text(encoding="utf-8").splitlines())) > 420
    }
    assert not long
