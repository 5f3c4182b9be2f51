"""Which pairs an update sees: real and synthetic ones in an exact ratio, real ones alone at the end.

Takes two prepared cohorts; gives batches as a pure function of the update. All places of all batches are numbered
in one row, n = 0, 1, 2, ...; place n is synthetic where the line ``n * fraction`` crosses an integer (Bresenham's
line), so that any stretch of the row holds the ratio asked for to within one case. Real and synthetic cases
each come in shuffled epochs of their own.

Sources: Ikuta et al. 2024, section 3.4 (three synthetic per real, mixed to the end); Han et al. 2023 (MedGen3D),
Tables 2 and 3, where a last stage on real cases alone scores higher in 18 of 20 cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pydantic import Field

from voxpair.cohorts.augment import Augmentation
from voxpair.cohorts.datasets import PreparedCohort, draw, pick, stack
from voxpair.core.run import derive_seed
from voxpair.core.settings import Settings
from voxpair.networks.backbones import Patch


class MixSettings(Settings):
    """How real and synthetic cases are mixed.

    Attributes:
        synthetic_share: synthetic cases among those that the updates see, however many of each there are: 0.75 is the
            papers' three to one, 0 leaves the synthetic ones out, 1 the real ones.
        real_only_last: share of the updates, at the end, that see real cases alone.
    """

    synthetic_share: float = Field(0.5, ge=0, le=1)
    real_only_last: float = Field(0.25, ge=0, le=1)


@dataclass(frozen=True)
class Mixture:
    """The order of real and synthetic cases; knows numbers only.

    Args:
        real, synthetic: cases that there are; ``synthetic`` may be 0.
        updates: of the whole fit.
        places: cases per update, over all devices.
        seed: of the order.

    >>> settings = MixSettings(synthetic_share=0.75, real_only_last=0.5)
    >>> mixture = Mixture(real=2, synthetic=6, settings=settings, updates=4, places=4, seed=0)
    >>> [mixture.synthetic_before(4 * update) for update in range(5)]
    [0, 3, 6, 6, 6]
    """

    real: int
    synthetic: int
    settings: MixSettings
    updates: int
    places: int
    seed: int

    def choose(self, update: int, position: int) -> tuple[bool, int]:
        """Return whether the case at ``position`` of ``update`` is synthetic, and which one of its kind it is."""
        n = update * self.places + position
        before = self.synthetic_before(n)
        if self.synthetic_before(n + 1) > before:
            return True, pick(before, 0, self.synthetic, derive_seed("synthetic", self.seed), batch_size=1)
        return False, pick(n - before, 0, self.real, derive_seed("real", self.seed), batch_size=1)

    def synthetic_before(self, n: int) -> int:
        """Number of synthetic cases among the first ``n`` places."""
        if not self.synthetic:
            return 0
        mixed_updates = self.updates - round(self.settings.real_only_last * self.updates)
        share = Fraction(self.settings.synthetic_share).limit_denominator(1000)
        return math.floor(min(n, mixed_updates * self.places) * share)


@dataclass(frozen=True)
class MixedBatches:
    """Batches of real and synthetic cases, each item as :func:`voxpair.cohorts.datasets.draw` makes it.

    Args:
        real: annotated cases.
        synthetic: annotated too; None for real cases alone.
        updates: of the whole fit, of which the last may be real only.
        batch_size: cases per update and device.
        seed: of order, patches and augmentation.
    """

    real: PreparedCohort
    synthetic: PreparedCohort | None
    settings: MixSettings
    updates: int
    batch_size: int
    seed: int
    patch: Patch | None = None
    augment: Augmentation | None = None

    def batch(self, update: int, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
        """Return the batch of ``update`` on device ``rank``; the devices of one update share out its cases.

        Beside what :func:`voxpair.cohorts.datasets.stack` gives, ``progress``: the share of the updates already done.
        """
        count = len(self.synthetic) if self.synthetic else 0
        places = self.batch_size * world_size
        mixture = Mixture(len(self.real), count, self.settings, self.updates, places, self.seed)
        items = []
        for position in range(rank * self.batch_size, (rank + 1) * self.batch_size):
            is_synthetic, index = mixture.choose(update, position)
            case = (self.synthetic if is_synthetic else self.real)[index]
            seed = derive_seed("item", self.seed, update, position)
            items.append(draw(case, seed, patch=self.patch, augment=self.augment))
        return stack(items) | {"progress": update / self.updates}
