"""Weights files of others: both formats are read, code in them is never run, and what they are not is said."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from voxpair.core.errors import InputError
from voxpair.training.state import read_state_dict

STATE = {"0.weight": torch.arange(6.0).reshape(2, 3), "0.bias": torch.ones(2)}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.safetensors"])
def test_both_formats_are_read(tmp_path, name, nested):
    if name.endswith(".safetensors"):
        save_file(STATE, tmp_path / name)
    else:
        torch.save({"state_dict": STATE, "epoch": 3} if nested else STATE, tmp_path / name)
    found = read_state_dict(tmp_path / name)
    assert found.keys() == STATE.keys() and all(torch.equal(found[key], value) for key, value in STATE.items())


def test_code_in_a_weights_file_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    (tmp_path / "weights.pt").write_bytes(pickle.dumps({"features.0.weight": Trap()}))
    with pytest.raises(InputError, match="without running its code"):
        read_state_dict(tmp_path / "weights.pt")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"no weights", pickle.dumps([1, 2])])
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        InputError, match=rf"{name} (is no state dict|holds list; expected a state dict)|cannot read .*{name}.*damaged"
    ):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize("content", [b"0", b"a.", b"hello.", b"K", b"U\xff", b"h\x01."])
def test_a_file_that_the_unpickler_trips_over_is_refused(tmp_path, content):
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"weights\.pt is no state dict"):
        read_state_dict(tmp_path / "weights.pt")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": [1]}])
def test_a_torch_file_of_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"holds (list|dict); expected a state dict: names and their tensors"):
        read_state_dict(tmp_path / "weights.pt")


def test_a_file_that_is_not_there_is_never_downloaded(tmp_path):
    with pytest.raises(InputError, match=r"there is no weights file .*absent.pt; nothing is ever downloaded"):
        read_state_dict(tmp_path / "absent.pt")
