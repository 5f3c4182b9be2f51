"""Tensor files: written whole or not at all, read whole or refused by name. No pickle.

Takes named tensors; gives safetensors files and their SHA-256. Whoever needs no tensors need not import this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from voxpair.core.errors import InputError, RunError
from voxpair.core.run import atomic_path


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors, wherever they live, and return the file's SHA-256.

    Raises:
        RunError: the file cannot be written, such as on a full disk.
    """
    with atomic_path(path) as temporary:
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
        except SafetensorError as error:  # its own type even for a full disk
            raise RunError(f"cannot write {path}: {error}. Nothing was changed there.") from error
    return sha256(path)


def read_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Read what :func:`write_tensors` wrote.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    if not path.is_file():
        raise InputError(f"there is no weights file {path}")
    try:
        return load_file(path, device=device)
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot read {path}: {error}. It is damaged, or no safetensors file; make it again") from None


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
