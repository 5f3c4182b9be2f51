"""Commands in README.md are real: every voxpair line is run with the unit preset, in a folder of small scans."""

import re
import shlex
from pathlib import Path

import pytest

from voxpair.cli import app
from voxpair.core.errors import VoxpairError

ROOT = Path(__file__).resolve().parents[2]


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.startswith("voxpair ")]


def test_first_two_commands_are_make_demo_and_make_test():
    text = (ROOT / "README.md").read_text()
    first = re.search(r"```bash\n(.*?)```", text, re.DOTALL).group(1).split()
    assert first[:2] == ["make", "demo"]
    assert re.findall(r"make (\w+)", text)[:2] == ["demo", "test"]


def test_every_command_of_the_readme_runs(tmp_path, monkeypatch, small_scans):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-scans").symlink_to(small_scans)
    found = commands()
    assert len(found) >= 10
    for line in found:
        words = shlex.split(line)[1:]
        if "--preset" in words:
            words[words.index("--preset") + 1] = "unit"
        if words[0] == "audit":  # four held-out scans of 16 voxels prove nothing; here the verb has to run
            for setting in ("detector.smallest_reference=2", "detector.embedding.loop.updates=3", "control_share=0.01"):
                words += ["--set", setting]
        if words[0] == "study":  # as many labels as there are small scans
            words[words.index("--labelled") + 1] = "2"
            words += ["--seeds", "1", "--workers", "1"]
        words = [
            "3" if word.isdigit() and before in ("-n", "--count") else word for before, word in zip(["", *words], words)
        ]
        try:
            app(words, standalone_mode=False)
        except VoxpairError as error:
            pytest.fail(f"{line}\n{error}")


def test_no_place_or_host_is_named():
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*.toml"), *ROOT.glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.])/(home|root|work|Users)/|pythonhosted|npmjs", text), path.name
