"""What a fitted generator knows of its training set, as it travels with the weights.

Takes prepared training cases; gives medians, normalisation and vocabulary that JSON can hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from voxpair.cohorts.datasets import PreparedCase, PreparedCohort
from voxpair.core.labels import LabelTable
from voxpair.generators.fitting import Origin
from voxpair.generators.joint_ldm.conditions import VOLUME, Conditions
from voxpair.generators.joint_ldm.latents import Normalisation


@dataclass(frozen=True)
class Facts(Origin):
    """What a fitted generator knows of its training set: origin, latent normalisation, vocabulary of conditions."""

    normalisation: Normalisation
    conditions: Conditions

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"conditions": self.conditions.to_json()}

    @classmethod
    def measure(cls, training: PreparedCohort, normalisation: Normalisation, conditions: Conditions) -> Facts:
        return cls(**vars(Origin.of(training)), normalisation=normalisation, conditions=conditions)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Facts:
        normalisation = Normalisation(**{key: tuple(value) for key, value in values["normalisation"].items()})
        return cls(
            tuple(values["spacing_mm"]),
            values["intensity_low"],
            values["intensity_high"],
            tuple(values["training_patients"]),
            normalisation,
            Conditions.from_json(values["conditions"]),
        )


def describe(case: PreparedCase, label_table: LabelTable) -> dict[str, Any]:
    """Return a prepared case's attributes and, if it is annotated, the volume of each structure in mL."""
    described = dict(case.attributes)
    if case.labels is not None:
        voxel_ml = float(np.prod(case.geometry.spacing_mm)) / 1000
        for name, voxels in zip(label_table.names, case.voxels_per_class[1:]):
            described[VOLUME + name] = voxels * voxel_ml
    return described
