"""Case: one volume with its labels and its place in the world. It checks itself.

    axis     meaning
    X Y Z    array axes as stored; ``affine`` maps voxel indices (x, y, z, 1) to RAS+ millimetres (nibabel's convention)

Image values are in original units: HU for CT, arbitrary for MRI.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from voxpair.core.errors import InputError
from voxpair.core.labels import LabelTable

Source = Literal["real", "phantom", "synthetic", "prediction"]
_EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Case:
    """One scan, real or not.

    Args:
        name: unique in its cohort; letters, digits, ``.``, ``_`` and ``-``.
        image: shape (X, Y, Z), float32, finite.
        labels: shape (X, Y, Z), uint8 values of ``label_table``; None where nobody has annotated.
        affine: (4, 4), voxel index to RAS+ millimetres, invertible.
        patient: cases of one patient never part in a split.
        attributes: free columns of ``cases.csv`` such as sex or contrast.
        provenance: synthetic only: generator, weights digest, seed, index, condition.

    Raises:
        InputError: names the case and what is wrong with it.
    """

    name: str
    image: np.ndarray
    labels: np.ndarray | None
    affine: np.ndarray
    label_table: LabelTable
    patient: str
    source: Source = "real"
    attributes: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)
    provenance: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)

    def __post_init__(self) -> None:
        if not self.name or not all(c.isalnum() or c in "._-" for c in self.name):
            raise InputError(f"case name {self.name!r}: use letters, digits, '.', '_' and '-' only")
        if self.image.ndim != 3 or 0 in self.image.shape:
            raise InputError(f"case {self.name}: expected a 3D image, got shape {self.image.shape}")
        if self.image.dtype != np.float32:
            object.__setattr__(self, "image", self.image.astype(np.float32))
        bad_voxels = int(self.image.size - np.isfinite(self.image).sum())
        if bad_voxels:
            raise InputError(f"case {self.name}: the image has {bad_voxels} voxels that are NaN or infinite")
        affine = np.asarray(self.affine, float)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise InputError(f"case {self.name}: the affine is not an invertible 4x4 matrix:\n{affine}")
        object.__setattr__(self, "affine", affine)
        if self.labels is not None:
            if self.labels.shape != self.image.shape:
                raise InputError(
                    f"case {self.name}: the labels have shape {self.labels.shape}, the image {self.image.shape}"
                )
            self.label_table.check(self.labels, f"case {self.name}")
            object.__setattr__(self, "labels", self.labels.astype(np.uint8, copy=False))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along X, Y, Z in millimetres."""
        return spacing_of(self.affine)


@dataclass(frozen=True, eq=False)
class LabelMap:
    """The labels of a case without its image, for those who compare labels and would read images in vain.

    Args:
        labels: shape (X, Y, Z), uint8 values of ``label_table``.
        affine: (4, 4), voxel index to RAS+ millimetres.
    """

    name: str
    patient: str
    labels: np.ndarray
    affine: np.ndarray
    label_table: LabelTable

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along X, Y, Z in millimetres."""
        return spacing_of(self.affine)


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Return the voxel size along X, Y, Z in millimetres that an affine (4, 4) stands for."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)
