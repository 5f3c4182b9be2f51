"""Tensor files: whole or absent, readable by others, and refused by name when damaged."""

import subprocess
import sys

import pytest
import torch

from voxpair.core.errors import InputError
from voxpair.core.tensors import read_tensors, sha256, write_tensors


def test_what_was_written_comes_back(tmp_path):
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor([True, False])}
    digest = write_tensors(tmp_path / "x.safetensors", tensors)
    found = read_tensors(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert digest == sha256(tmp_path / "x.safetensors")


def test_others_may_read_weights_as_they_may_read_other_files(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(2)})
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("damage", [lambda content: content[:-5], lambda content: b"", lambda content: b"\xff" * 80])
def test_a_damaged_file_is_refused_by_name(tmp_path, damage):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.zeros(20)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"x\.safetensors.*damaged"):
        read_tensors(path)
    path.unlink()
    with pytest.raises(InputError, match="no weights file"):
        read_tensors(path)


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path):
    """A limit on the size of files stands in for it."""
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(3)})
    code = (
        "import resource, sys, torch; from pathlib import Path; from voxpair.core.tensors import write_tensors\n"
        "from voxpair.core.errors import RunError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try: write_tensors(Path(sys.argv[1]), {'a': torch.zeros(5000)})\n"
        "except RunError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout and "x.safetensors" in done.stdout
    assert torch.equal(read_tensors(path)["a"], torch.ones(3)) and [p.name for p in tmp_path.iterdir()] == [path.name]
