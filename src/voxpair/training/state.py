"""State of a fit: what a checkpoint holds, how it is written and read, and the running average of weights.

Weights of others, which may be pickles, are read by :func:`read_state_dict` alone.

A checkpoint is two files with one stem: ``NAME.safetensors`` (every tensor, under dotted names) and
``NAME.json`` (everything else, with the digest of the tensor file). No pickle. The tensor file carries the
update in its name and the JSON is renamed into place last, so a kill at any moment leaves the previous
checkpoint or the new one, never a mixture.

Source of the averaging: Polyak and Juditsky 1992; the ramp-up (1 + n) / (10 + n) is that of TensorFlow's
ExponentialMovingAverage.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from voxpair.core.errors import InputError
from voxpair.core.run import read_json, write_json
from voxpair.core.tensors import read_tensors, sha256, write_tensors


class MovingAverage:
    """Exponential moving average of a module's parameters and buffers.

    Args:
        module: the module to follow; an averaged copy is kept in :attr:`module`.
        decay: weight of the past per update once warmed up, in [0, 1); early on (1 + n) / (10 + n) if smaller.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, current in zip(self.module.state_dict().values(), module.state_dict().values()):
            if average.is_floating_point():
                average.lerp_(current.to(average.dtype), weight)
            else:
                average.copy_(current)


def save_checkpoint(folder: Path, name: str, state: Mapping[str, Any]) -> None:
    """Write ``state`` (nested mappings and lists of tensors and JSON values) so that a kill loses nothing."""
    tensors: dict[str, Tensor] = {}
    skeleton = _take_tensors(state, "", tensors)
    previous = read_json(folder / f"{name}.json") if (folder / f"{name}.json").exists() else {}
    file_name = f"{name}-{_digest_of_names(tensors)}-{state.get('update', 0)}.safetensors"
    digest = write_tensors(folder / file_name, tensors)
    write_json(folder / f"{name}.json", {"tensors": file_name, "sha256": digest, "state": skeleton})
    if previous.get("tensors") not in (None, file_name):
        (folder / previous["tensors"]).unlink(missing_ok=True)


def load_checkpoint(folder: Path, name: str, device: str = "cpu") -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote; a damaged file is refused by name."""
    content = read_json(folder / f"{name}.json")
    path = folder / content["tensors"]
    if not path.exists():
        raise InputError(f"the checkpoint {folder / name}.json names {path.name}, which is missing")
    if sha256(path) != content["sha256"]:
        raise InputError(f"the checkpoint {path} is damaged: its SHA-256 is not the one recorded when it was written")
    return _put_tensors(content["state"], read_tensors(path, device))


def has_checkpoint(folder: Path, name: str) -> bool:
    return (folder / f"{name}.json").exists()


def save_weights(path: Path, module: nn.Module) -> str:
    """Write a module's weights as safetensors and return their SHA-256."""
    return write_tensors(path, module.state_dict())


def load_weights(path: Path, module: nn.Module) -> None:
    """Load weights that must match the module exactly."""
    found = read_tensors(path)
    expected = module.state_dict()
    wrong = sorted(set(found) ^ set(expected)) + [
        k for k in found if k in expected and found[k].shape != expected[k].shape
    ]
    if wrong:
        raise InputError(
            f"{path} does not fit this network: {len(wrong)} entries differ, first {wrong[0]!r}. "
            "It was written with other settings."
        )
    module.load_state_dict(found)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the weights of a network of others, saved as safetensors or by torch; code in the file is never run.

    Raises:
        InputError: there is no such file; it cannot be read without running code; it holds something else.
    """
    if not path.is_file():
        raise InputError(f"there is no weights file {path}; nothing is ever downloaded: get it and name where it lies")
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler that is given something else fails in any way
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is no state dict that can be read without running its code: {first_line}") from None
    found = found.get("state_dict", found) if isinstance(found, Mapping) else found
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"{path} holds {type(found).__name__}; expected a state dict: names and their tensors")
    return dict(found)


def _digest_of_names(tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256("\n".join(sorted(tensors)).encode()).hexdigest()[:8]


def _take_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"__tensor__": path}
    if isinstance(value, Mapping):
        return {"__items__": [[key, _take_tensors(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_take_tensors(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]
    return value


def _put_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "__tensor__" in value:
            return tensors[value["__tensor__"]]
        return {key: _put_tensors(item, tensors) for key, item in value["__items__"]}
    if isinstance(value, list):
        return [_put_tensors(item, tensors) for item in value]
    return value
