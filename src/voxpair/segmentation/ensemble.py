"""An ensemble: segmenters that differ in little but their random numbers, and decide together.

Takes fitted segmenters of one label table and grid; gives labels for a :class:`Case`, as one segmenter does.

    p(class) = mean over members m of p_m(class), voxel by voxel on the networks' grid

Each member errs in places of its own, so the mean errs less than its members do on average; it costs as many times
the computation.

Source: Lakshminarayanan et al. 2017 (deep ensembles), equation 5; nnU-Net (Isensee et al. 2021) joins its folds so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.segmentation.segmenter import Segmenter


class Ensemble:
    """One or more segmenters as one. That of a single segmenter predicts what the segmenter predicts.

    Args:
        members: of the same label table, modality and preprocessing; the networks may differ.

    Raises:
        InputError: no members, or members that differ in what they label.

    Example::

        ensemble = Ensemble.load([Path("run/model"), Path("run/seed1/model")], device="cpu")
        labels = ensemble.predict(case).labels
    """

    def __init__(self, members: Sequence[Segmenter]) -> None:
        if not members:
            raise InputError("an ensemble needs at least one segmenter")
        first, *others = members
        for number, other in enumerate(others, start=2):
            pairs = {
                "labels": (first.label_table.to_mapping(), other.label_table.to_mapping()),
                "modality": (first.modality, other.modality),
                "preprocess": (first.settings.preprocess, other.settings.preprocess),
            }
            for what, (wanted, found) in pairs.items():
                if wanted != found:
                    raise InputError(
                        f"segmenters of one ensemble must share {what}: the first has {wanted}, number {number} {found}"
                    )
        self.members, self.label_table, self.modality = tuple(members), first.label_table, first.modality
        digests = [member.digest for member in members]
        self.digest = digests[0] if not others else hashlib.sha256(" ".join(digests).encode()).hexdigest()

    @classmethod
    def load(cls, folders: Sequence[Path], device: str = "cpu") -> Self:
        """Read what :meth:`Segmenter.save` wrote, a folder per member."""
        return cls([Segmenter.load(folder, device) for folder in folders])

    def predict(self, case: Case) -> Case:
        """Return ``case`` with predicted labels on its own grid: same shape and affine; its labels are not used."""
        first, *others = self.members
        total, geometry = first.probabilities(case)
        for member in others:
            total = total + member.probabilities(case)[0]
        labelled = first.labelled(case, total / len(self.members), geometry)
        return replace(labelled, provenance={"segmenter": self.digest})
