"""Whom does this scan copy? Its nearest training case, how alike the two are, and how alike strangers are.

Takes the scans that a generator has learnt from and scans of other patients; gives, for any scan, its nearest training
case under three detectors, each a similarity in [-1, 1] that is 1 for an exact copy.

    detector    similarity                                              finds
    embedding   correlation of contrastive embeddings (Dar et al.)      copies that are bent, turned, blurred, noisy
    voxels      correlation of band-passed voxels after affine          copies that are shifted, scaled, mirrored
                alignment
    labels      mean Dice of the structures under the same map          copied anatomy under another texture; shown only

A scan is a copy where embedding or voxels exceed their threshold. The threshold comes from strangers: each held-out
real case against its own nearest training case. Of n such similarities it is the k-th smallest, k = ceil((n + 1) q)
with q = 1 - ``false_alarms`` / 2, since two detectors decide: then a new stranger is flagged with a probability of at
most ``false_alarms``. Where k > n, it is the largest, and a stranger is flagged about twice in n + 1 times.

Embeddings are compared with all training cases; the costlier alignment is done for the few that any of the three
detectors ranks first on a coarse grid.

Source: Dar et al. 2024, arXiv 2402.01054, for embeddings and a threshold from real against real; the k-th smallest is
split conformal prediction (Vovk et al. 2005). Shapes: N training cases, k candidates, X Y Z volume axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from voxpair.cohorts.cohort import Cohort
from voxpair.cohorts.datasets import PreparedCase, PreparedCohort
from voxpair.cohorts.preprocess import Fit, Prepared, Preprocessor, PreprocessSettings
from voxpair.cohorts.splits import check_no_overlap
from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.labels import LabelTable
from voxpair.core.run import RunFolder
from voxpair.core.settings import Settings, digest
from voxpair.evaluation.audit.embedding import EmbeddingSettings, Encoder, correlations, embed, fit_encoder
from voxpair.evaluation.audit.similarity import Sketch, align, coarse_labels, coarse_voxels, overlap, pattern, sketch

Detector = Literal["embedding", "voxels", "labels"]
DECIDING: tuple[Detector, ...] = ("embedding", "voxels")
ANY_UNITS = "MRI"
"""CT is scaled by its own percentiles too: a copy in other units is a copy."""

_NO_LABELS = LabelTable("none", ())


class DetectorSettings(Settings):
    """How scans are compared.

    Attributes:
        grid: voxels along X, Y, Z on which scans are compared; multiples of 4.
        fit: per axis, how a scan gets onto the grid; the generator's own ``preprocess.fit`` is right.
        field_of_view_mm: what the grid shows of "crop_or_pad" axes; None takes the training scans' median.
        false_alarms: largest share of strangers that may be called copies.
        candidates: training cases that each detector proposes for alignment.
        smallest_reference: fewest held-out cases that a threshold is taken from.
        embedding: the contrastive encoder.
    """

    grid: tuple[int, int, int] = (32, 32, 32)
    fit: tuple[Fit, Fit, Fit] = ("resample", "resample", "resample")
    field_of_view_mm: tuple[float, float, float] | None = None
    false_alarms: float = Field(0.05, gt=0, lt=1)
    candidates: int = Field(3, ge=1)
    smallest_reference: int = Field(8, ge=2)
    embedding: EmbeddingSettings = EmbeddingSettings()

    @field_validator("grid")
    @classmethod
    def _quarters(cls, grid: tuple[int, int, int]) -> tuple[int, int, int]:
        if any(n < 16 or n % 4 for n in grid):
            raise ValueError(f"every axis of the grid must be a multiple of 4 and at least 16, got {grid}")
        return grid


@dataclass(frozen=True, eq=False)
class Likeness:
    """How alike one scan is to each training case.

    Args:
        scores: detector to (N,) similarities; -1 where a pair was too unlike to be aligned. No "labels" without labels.
        maps: index of a training case to the (3, 4) map that lays it over the scan best.
    """

    scores: Mapping[Detector, np.ndarray]
    maps: Mapping[int, Tensor]

    def nearest(self, detector: Detector) -> float:
        return float(self.scores[detector].max())


@dataclass(frozen=True, eq=False)
class Match:
    """The training case that a scan is nearest to, by the detector that is surest.

    Args:
        score, threshold: of that detector; above the threshold the scan is a copy.
        scores: similarity to that very training case by each detector.
        suspicion: (score - threshold) / (1 - threshold): above 0 for a copy, 1 for an exact one.
    """

    case: str
    nearest: str
    patient: str
    detector: Detector
    score: float
    threshold: float
    scores: Mapping[Detector, float]
    suspicion: float
    likeness: Likeness

    @property
    def is_copy(self) -> bool:
        return self.score > self.threshold


@dataclass(frozen=True, eq=False)
class CopyDetector:
    """Fitted by :meth:`fit`; asks of one scan after the other whether it is a copy.

    Args:
        training, reference: prepared cases.
        strangers: likeness of each reference case to the training cases.
        thresholds: by detector; no "labels" where the cohorts have none.
    """

    settings: DetectorSettings
    preprocess: PreprocessSettings
    encoder: Encoder
    training: PreparedCohort
    reference: PreparedCohort
    sketches: list[Sketch]
    embeddings: Tensor
    strangers: Sequence[Likeness]
    thresholds: Mapping[Detector, float]

    @classmethod
    def fit(cls, training: Cohort, reference: Cohort, settings: DetectorSettings, run: RunFolder) -> CopyDetector:
        """Learn how alike strangers are; prepared scans and encoder are kept in ``run``, where the fit resumes.

        Raises:
            InputError: a patient is in both cohorts; too few reference cases; nothing to compare.
        """
        check_no_overlap(training, reference)
        if len(reference) < settings.smallest_reference:
            raise InputError(
                f"{len(reference)} reference cases: how alike strangers are cannot be judged from fewer than "
                f"{settings.smallest_reference}; hold out more real patients from the generator"
            )
        preprocess = _preprocess(settings, training)
        prepared, held_out = (prepare(c, training, preprocess, run) for c in (training, reference))
        thinned = thin(prepared)
        made_of = digest([settings.embedding.model_dump(mode="json"), preprocess.model_dump(mode="json"), run.seed])
        folder = run.child("encoder").child(f"{made_of}-{training.digest()}")
        # On the training cases alone: it learns to tell what it is fitted on apart, so a stranger that it had seen
        # would be less alike than one that it had not, and the threshold too low.
        encoder = fit_encoder(thinned, prepared.names, settings.embedding, folder)
        sketches = [sketch(case.image, case.labels, prepared.label_table.classes) for case in prepared]
        embeddings = embed(encoder, thinned)
        blind = cls(settings, preprocess, encoder, prepared, held_out, sketches, embeddings, (), {})
        run.progress.start("strangers", len(held_out))
        strangers = []
        for case in held_out:
            strangers.append(blind.compare(case))
            run.progress.advance()
        thresholds = {}
        for detector in ("embedding", "voxels", "labels"):
            nearest = [found.nearest(detector) for found in strangers if detector in found.scores]
            if len(nearest) >= settings.smallest_reference:
                thresholds[detector] = stranger_threshold(nearest, settings.false_alarms / len(DECIDING))
        return replace(blind, strangers=tuple(strangers), thresholds=thresholds)

    def match(self, case: Case) -> Match:
        """Return the nearest training case of one scan, in original units and of any size."""
        preprocessor = Preprocessor(self.preprocess, case.label_table, ANY_UNITS)
        return self.judge(case.name, self.compare(preprocessor.forward(case), case.label_table))

    def compare(self, scan: Prepared | PreparedCase, label_table: LabelTable | None = None) -> Likeness:
        """Compare a prepared scan with every training case.

        Args:
            label_table: of the scan's labels; None means that of the training cases.
        """
        classes = self.training.label_table.classes
        same = label_table is None or label_table.to_mapping() == self.training.label_table.to_mapping()
        labels = scan.labels if same else None
        drawn, query = sketch(scan.image, labels, classes), pattern(scan.image)
        similar, starts = coarse_voxels(drawn, torch.stack([other.spectrum for other in self.sketches]))
        scores = {"embedding": correlations(self.encoder, _thinned(query), self.embeddings).numpy().astype(float)}
        few = min(self.settings.candidates, len(self.training))
        proposed = [(i, starts[i]) for i in {*similar.topk(few).indices.tolist(), *_top(scores["embedding"], few)}]
        if drawn.labels is not None:
            alike, centred = coarse_labels(drawn, self.sketches)
            proposed += [(i, centred[i]) for i in alike.topk(few).indices.tolist() if alike[i] >= 0]
        chosen = [i for i, _ in proposed]
        cases = [self.training[i] for i in chosen]
        aligned, maps = align(
            query, torch.stack([pattern(c.image) for c in cases]), torch.stack([m for _, m in proposed])
        )
        scores["voxels"], best = _spread(chosen, aligned.clamp(-1, 1).numpy(), len(self.training))
        if drawn.labels is not None:
            known = [p for p, c in enumerate(cases) if c.labels is not None]
            if known:
                dice = overlap(labels, np.stack([cases[p].labels for p in known]), maps[known], classes)
                scores["labels"], _ = _spread([chosen[p] for p in known], dice, len(self.training))
        return Likeness(scores, {i: maps[place] for i, place in best.items()})

    def judge(self, name: str, found: Likeness) -> Match:
        """Say which training case a compared scan is nearest to and whether it is a copy."""
        limits = self.thresholds
        sure = {d: (found.nearest(d) - limits[d]) / max(1 - limits[d], 1e-6) for d in DECIDING}
        detector = max(sure, key=sure.__getitem__)
        nearest = int(found.scores[detector].argmax())
        return Match(
            case=name,
            nearest=self.training.facts[nearest]["name"],
            patient=self.training.facts[nearest]["patient"],
            detector=detector,
            score=found.nearest(detector),
            threshold=limits[detector],
            scores={d: float(values[nearest]) for d, values in found.scores.items()},
            suspicion=sure[detector],
            likeness=found,
        )

    def flagged_strangers(self) -> dict[Detector | Literal["either"], float]:
        """Return the share of reference cases above the thresholds that all other patients' cases give.

        By detector, and "either" of those that decide: what a scan of a new patient may expect.
        """
        patients = np.array([facts["patient"] for facts in self.reference.facts])
        flags = {d: [] for d in (*self.thresholds, "either")}
        for found, patient in zip(self.strangers, patients):
            others = [s for s, p in zip(self.strangers, patients) if p != patient]
            above = {}
            for detector in self.thresholds:
                known = [other.nearest(detector) for other in others if detector in other.scores]
                if detector in found.scores and known:
                    limit = stranger_threshold(known, self.settings.false_alarms / len(DECIDING))
                    above[detector] = found.nearest(detector) > limit
                    flags[detector].append(above[detector])
            flags["either"].append(any(above.get(d, False) for d in DECIDING))
        return {d: float(np.mean(found)) if found else 0.0 for d, found in flags.items()}


def stranger_threshold(nearest: Sequence[float], false_alarms: float) -> float:
    """Return the similarity that a new stranger exceeds with a probability of at most ``false_alarms``.

    With fewer than 1 / ``false_alarms`` - 1 cases no such number is known, and it is the largest.

    >>> stranger_threshold([0.1, 0.5, 0.2, 0.4], 0.2), stranger_threshold([0.1, 0.5, 0.2, 0.4], 0.4)
    (0.5, 0.4)
    """
    rank = math.ceil((len(nearest) + 1) * (1 - false_alarms) - 1e-9)
    return float(np.sort(nearest)[min(rank, len(nearest)) - 1])


def field_of_view_mm(cohort: Cohort) -> np.ndarray:
    """Return the median extent of the scans along right, anterior, superior; only headers are read."""
    extents = []
    for record in cohort.records:
        header = nib.load(record.image_path)
        axes = nib.io_orientation(header.affine)[:, 0].astype(int)
        extent = np.empty(3)
        extent[axes] = nib.affines.voxel_sizes(header.affine) * header.shape[:3]
        extents.append(extent)
    return np.median(extents, axis=0)


def prepare(cohort: Cohort, like: Cohort, preprocess: PreprocessSettings, run: RunFolder) -> PreparedCohort:
    """Prepare a cohort; labels of another table than that of ``like`` are left out, since they mean something else."""
    if cohort.label_table.to_mapping() != like.label_table.to_mapping():
        records = tuple(replace(record, labels_path=None) for record in cohort.records)
        cohort = replace(cohort, records=records, label_table=_NO_LABELS)
    preprocessor = Preprocessor(preprocess, cohort.label_table, ANY_UNITS)
    return PreparedCohort.build(cohort, preprocessor, run.cache, run.progress)


def thin(prepared: PreparedCohort) -> Tensor:
    """Return the patterns that embeddings are made of: (N, X/2, Y/2, Z/2)."""
    return torch.stack([_thinned(pattern(case.image)) for case in prepared])


def _thinned(scan: Tensor) -> Tensor:
    return F.avg_pool3d(scan[None], 2)[0]


def _preprocess(settings: DetectorSettings, training: Cohort) -> PreprocessSettings:
    spacing = None
    if "crop_or_pad" in settings.fit:
        extent = settings.field_of_view_mm or field_of_view_mm(training)
        spacing = tuple(float(e / n) for e, n in zip(extent, settings.grid))
    return PreprocessSettings(grid=settings.grid, fit=settings.fit, spacing_mm=spacing, intensity="mri", pad="mirror")


def _top(scores: np.ndarray, count: int) -> list[int]:
    return np.argsort(-scores, kind="stable")[:count].tolist()


def _spread(chosen: Sequence[int], scores: np.ndarray, count: int) -> tuple[np.ndarray, dict[int, int]]:
    """Return (N,) scores with the best of each chosen case and -1 elsewhere, and which place was the best."""
    whole, best = np.full(count, -1.0), {}
    for place, (i, score) in enumerate(zip(chosen, scores)):
        if i not in best or score > whole[i]:
            whole[i], best[i] = float(score), place
    return whole, best
