"""What generators share: claiming a step of a fit, facts of the training set that travel with the weights, a name.

Takes run folders, prepared cases and networks; decides nothing about how pairs are learnt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from voxpair.cohorts.datasets import PreparedCase
from voxpair.core.errors import InputError
from voxpair.core.run import RunFolder, read_json, write_json
from voxpair.core.settings import digest


@dataclass(frozen=True)
class Origin:
    """What samples take from the training set without a network.

    Args:
        spacing_mm: median voxel size on the grid; that of the samples.
        intensity_low, intensity_high: medians of the original units that 0 and 1 stand for.
        training_patients: whose scans a generator was fitted on, so that nobody evaluates on them.
    """

    spacing_mm: tuple[float, float, float]
    intensity_low: float
    intensity_high: float
    training_patients: tuple[str, ...]

    @classmethod
    def of(cls, training: Iterable[PreparedCase]) -> Origin:
        """Take the medians and the patients from the training cases."""
        cases = [(case.geometry, case.patient) for case in training]
        return Origin(
            tuple(np.median([geometry.spacing_mm for geometry, _ in cases], 0).tolist()),
            float(np.median([geometry.intensity_low for geometry, _ in cases])),
            float(np.median([geometry.intensity_high for geometry, _ in cases])),
            tuple(sorted({patient for _, patient in cases})),
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Origin:
        """Read what ``dataclasses.asdict`` gave, after JSON has made lists of its tuples."""
        return Origin(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def claim_step(run: RunFolder, inputs: str) -> RunFolder:
    """Return ``run``, or refuse to go on with what was begun there with other settings or data."""
    marker = run.file("inputs.json")
    if marker.exists() and read_json(marker)["inputs"] != inputs:
        raise InputError(
            f"{run.path} holds a step begun with other settings or data. "
            "Choose another run folder, or pass --overwrite."
        )
    write_json(marker, {"inputs": inputs})
    return run


def name_weights(content: Any, networks: Iterable[nn.Module]) -> str:
    """Return the SHA-256 of networks together with ``content``, which JSON can hold: facts, settings."""
    found = hashlib.sha256(digest(content).encode())
    for network in networks:
        for key, value in network.state_dict().items():
            found.update(key.encode())
            found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
