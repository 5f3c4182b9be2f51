"""The few contracts that components keep. ``tests/contracts`` runs over every implementer.

Shapes: B batch, C channels, X Y Z volume axes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from voxpair.core.case import Case
from voxpair.core.run import RunFolder

if TYPE_CHECKING:  # only names for the reader: core never imports torch or the layers above
    from voxpair.cohorts.cohort import Cohort
    from voxpair.core.settings import Settings


class PairGenerator(Protocol):
    """Learns p(image, labels) from a cohort and draws new cases from it."""

    steps: ClassVar[tuple[str, ...]]
    """Named, resumable parts of :meth:`fit`, in order."""

    settings: Settings
    """All of them; the part ``sampling``, where a generator has one, is read anew for every case."""

    def fit(self, cohort: Cohort, run: RunFolder, *, steps: Sequence[str] | None = None) -> None:
        """Fit ``steps`` (all by default) on the training cases of ``cohort``; finished steps are skipped."""

    def sample(
        self, count: int, *, seed: int, condition: Mapping[str, Any] | None = None, first: int = 0
    ) -> Iterator[Case]:
        """Stream cases ``first`` to ``count - 1``.

        Case *i* depends on (weights, seed, i, condition) alone.
        """

    def save(self, folder: Path) -> None:
        """Write safetensors and JSON; no pickle."""

    @classmethod
    def load(cls, folder: Path, *, device: str) -> PairGenerator: ...


class Batches(Protocol):
    """Training data as a pure function: batch *t* depends on ``t`` and the rank alone.

    That is why an interrupted fit continues bit for bit, whatever the number of loader workers.
    """

    def batch(self, update: int, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
        """Return tensors of shape (B, C, X, Y, Z) by name, and ``"names"``: the list of B case names."""


class Extractor(Protocol):
    """Turns a case into features; how real synthetic cases are is measured between two sets of features.

    An extractor is named in every table, since a distance under one cannot be compared with one under another.
    """

    name: str
    """What it is, such as ``"unet3d encoder of runs/baseline"``."""

    digest: str
    """SHA-256 of its weights."""

    def features(self, case: Case) -> Mapping[str, np.ndarray]:
        """Return a vector of length D for each of the views "axial", "coronal" and "sagittal", float32 and finite."""
