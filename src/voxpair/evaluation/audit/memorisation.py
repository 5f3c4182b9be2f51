"""The privacy audit: whom does a synthetic cohort copy?

Takes a synthetic cohort, the real cases that its generator has learnt from, and real cases of other patients; gives
``audit.json`` and ``copies.npz`` (the most suspicious cases beside the training case that each is nearest to).

    part          question                                                      answer
    copies        which synthetic cases are nearer to a training case than      ``copies``, ``patients_copied``
                  strangers are?
    chance        would as many strangers be flagged?                           ``expected_false_alarms``,
                                                                                ``excess_p_value`` (binomial test)
    control       are copies found that were planted under twelve disguises?    ``control``; if not, the audit is void
    membership    are training patients nearer to the synthetic cases than      ``membership_auc``: 0.5 means that an
                  other patients are?                                           outsider cannot tell them apart
    ratio         is the nearest training patient much nearer than the second   ``distance_ratios``: (1 - s1) / (1 - s2)
                  nearest? (embedding)                                          near 0 for a copy

``passed`` of the control says whether the audit could have found copies, not that there are none. No audit proves that
nobody can be recognised: it finds whole scans that are copied, not a single copied detail.

Source: Dar et al. 2024, arXiv 2402.01054 (share of synthetic copies, share of patients copied); planted copies and
held-out strangers as controls are ours. Shapes: N cases, X Y Z volume axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from scipy import stats

from voxpair.cohorts.cohort import Cohort
from voxpair.cohorts.datasets import PreparedCohort
from voxpair.cohorts.preprocess import Preprocessor
from voxpair.cohorts.splits import training_patients
from voxpair.core.errors import InputError, RunError
from voxpair.core.run import RunFolder, atomic_path, derive_seed, make_folder, read_json, versions, write_json
from voxpair.core.settings import Settings
from voxpair.evaluation.audit.copy_detector import (
    ANY_UNITS,
    DECIDING,
    CopyDetector,
    DetectorSettings,
    Likeness,
    Match,
    field_of_view_mm,
    prepare,
)
from voxpair.evaluation.audit.disguises import DISGUISES, EASY, disguise
from voxpair.evaluation.audit.similarity import coarse_voxels, lay_over, sketch

RESAMPLES = 2000


class AuditSettings(Settings):
    """How thoroughly an audit looks.

    Attributes:
        detector: how scans are compared.
        planted: training cases that are planted under every disguise; all where there are fewer.
        control_share: share of the planted copies under each easy disguise (exact, shift, rescale, noise) that must be
            found for the audit to count.
        pictures: most suspicious cases kept for the report.
    """

    detector: DetectorSettings = DetectorSettings()
    planted: int = Field(12, ge=1)
    control_share: float = Field(0.9, gt=0, le=1)
    pictures: int = Field(8, ge=1)


@dataclass(frozen=True)
class Audit:
    """What ``audit.json`` holds; lists follow the order of the cases in their cohorts."""

    copies: list[dict[str, Any]]
    patients_copied: int
    patients: int
    share_of_patients_copied: float
    synthetic: int
    expected_false_alarms: float
    excess_p_value: float
    membership_auc: float
    membership_interval: list[float]
    distance_ratios: dict[str, list[float]]
    detectors: dict[str, dict[str, Any]]
    control: dict[str, Any]
    warnings: list[str]
    settings: dict[str, Any]
    versions: dict[str, str]

    def as_text(self) -> str:
        """Return the findings for a terminal."""
        auc, (low, high) = self.membership_auc, self.membership_interval
        control = self.control
        return "\n".join(
            [
                f"copies: {len(self.copies)} of {self.synthetic} synthetic cases ({self.expected_false_alarms:.1f} "
                f"false alarms expected), of {self.patients_copied} of {self.patients} patients",
                *(f"  {c['case']} is like {c['nearest']}: {c['score']:.2f}, {c['detector']}" for c in self.copies[:10]),
                f"membership: AUC {auc:.2f} [{low:.2f}, {high:.2f}]; 0.5 is a coin",
                f"control: {control['found']} of {control['planted']} planted copies found",
                *self.warnings,
            ]
        )

    def check(self) -> None:
        """Raise unless the control passed: an audit that does not find planted copies proves nothing.

        Raises:
            RunError: names the disguises that deceived it.
        """
        if not self.control["passed"]:
            missed = [
                f"{kind} {row['found']} of {row['planted']}"
                for kind, row in self.control["by_disguise"].items()
                if kind in EASY
            ]
            raise RunError(
                f"the audit missed copies that were planted to test it (found: {', '.join(missed)}), so it says "
                "nothing about this cohort. Raise detector.embedding.loop.updates, or use a finer grid."
            )


def read_audit(path: Path) -> Audit:
    """Read an ``audit.json``."""
    return Audit(**read_json(path))


def audit(
    synthetic: Cohort, training: Cohort, reference: Cohort, out: Path, settings: AuditSettings, run: RunFolder
) -> Audit:
    """Audit a synthetic cohort; the same call again takes over what was prepared and fitted in ``run``.

    Args:
        training: real cases that the generator has learnt from.
        reference: real cases of patients that it has not.
        out: folder for ``audit.json`` and ``copies.npz``.

    Raises:
        InputError: a patient in both real cohorts, too few reference cases, another modality, or a generator that has
            learnt from reference patients.
    """
    warnings = check_cohorts(synthetic, training, reference)
    detector_settings = _same_view(settings.detector, synthetic, training)
    detector = CopyDetector.fit(training, reference, detector_settings, run)
    prepared = prepare(synthetic, training, detector.preprocess, run)
    run.progress.start("synthetic cases", len(prepared))
    matches = []
    for case in prepared:
        matches.append(detector.judge(case.name, detector.compare(case, prepared.label_table)))
        run.progress.advance()

    flagged = detector.flagged_strangers()
    alarm_rate = max(flagged["either"], 1 / (len(reference) + 1))  # none seen does not mean none to come
    copies = [match for match in matches if match.is_copy]
    excess = stats.binomtest(len(copies), len(matches), alarm_rate, alternative="greater").pvalue
    copied = {match.patient for match in copies}
    control = plant(training, detector, settings, run) | {"false_alarm_rate": flagged["either"]}
    auc, interval = _membership(detector, prepared, run.seed)
    warnings += _doubts(detector, copies, matches, alarm_rate, excess)
    result = Audit(
        copies=[_as_copy(match) for match in copies],
        patients_copied=len(copied),
        patients=len(training.patients),
        share_of_patients_copied=len(copied) / len(training.patients),
        synthetic=len(matches),
        expected_false_alarms=len(matches) * alarm_rate,
        excess_p_value=float(excess),
        membership_auc=auc,
        membership_interval=interval,
        distance_ratios={
            "synthetic": [_ratio(detector, match.likeness) for match in matches],
            "reference": [_ratio(detector, found) for found in detector.strangers],
        },
        detectors={
            name: {
                "threshold": threshold,
                "false_alarm_rate": flagged[name],
                "nearest_synthetic": [_nearest(match.likeness, name) for match in matches],
                "nearest_reference": [_nearest(found, name) for found in detector.strangers],
            }
            for name, threshold in detector.thresholds.items()
        },
        control=control,
        warnings=warnings,
        settings=settings.model_copy(update={"detector": detector_settings}).model_dump(mode="json"),
        versions=versions(),
    )
    make_folder(Path(out))
    write_json(Path(out) / "audit.json", asdict(result))
    _write_pictures(Path(out) / "copies.npz", matches, synthetic, training, detector, settings.pictures)
    return result


def check_cohorts(synthetic: Cohort, training: Cohort, reference: Cohort) -> list[str]:
    """Refuse cohorts that cannot be compared; return what weakens the comparison, as sentences."""
    for cohort in (training, reference):
        if cohort.modality != synthetic.modality:
            raise InputError(f"{synthetic.folder} is {synthetic.modality}, {cohort.folder} is {cohort.modality}")
    try:
        seen = training_patients(synthetic)
    except InputError:
        seen = frozenset()
    warnings = []
    if not seen:
        warnings.append(
            "The manifest of the synthetic cohort does not say whom its generator has learnt from (training_patients), "
            "so it is not known whether all of them were looked at."
        )
    known = sorted(seen & set(reference.patients))
    if known:
        raise InputError(
            f"the generator has learnt from {len(known)} patients of the reference ({', '.join(known[:5])}), so they "
            "are no strangers; take patients that it has not seen"
        )
    left_out, unseen = seen - set(training.patients), set(training.patients) - seen
    if left_out:
        warnings.append(f"Copies of {len(left_out)} training patients were not looked for: their scans were not given.")
    if seen and unseen:
        warnings.append(f"The generator has not learnt from {len(unseen)} of the patients given as its training cases.")
    if synthetic.label_table.to_mapping() != training.label_table.to_mapping():
        warnings.append("Synthetic and training cases have different label tables, so labels were not compared.")
    elif not synthetic.labelled().records or not training.labelled().records:
        warnings.append("Synthetic or training cases have no labels, so labels were not compared.")
    return warnings


def plant(training: Cohort, detector: CopyDetector, settings: AuditSettings, run: RunFolder) -> dict[str, Any]:
    """Disguise training cases, and see which are recognised as copies of the very patient that they are."""
    order = np.random.default_rng(derive_seed("planted", run.seed)).permutation(len(training))
    chosen = [training.records[i] for i in order[: settings.planted]]
    found = dict.fromkeys(DISGUISES, 0)
    run.progress.start("planted copies", len(chosen) * len(DISGUISES))
    for record in chosen:
        case = training.read(record.name)
        for kind in DISGUISES:
            match = detector.match(disguise(case, kind, derive_seed("plant", run.seed, record.name)))
            found[kind] += match.is_copy and match.patient == record.patient
            run.progress.advance()
    return {
        "passed": all(found[kind] >= settings.control_share * len(chosen) for kind in EASY),
        "planted": len(chosen) * len(DISGUISES),
        "found": sum(found.values()),
        "by_disguise": {kind: {"planted": len(chosen), "found": found[kind]} for kind in DISGUISES},
    }


def membership_auc(
    training: np.ndarray, reference: np.ndarray, patients: tuple[Sequence[str], Sequence[str]], seed: int
) -> tuple[float, list[float]]:
    """Return the chance that a training case scores above a reference case, and its 95 % interval over patients.

    Args:
        training, reference: scores, ties count half.
        patients: of the scores; whole patients are drawn.

    >>> membership_auc(np.array([3.0, 2.0]), np.array([1.0, 2.0]), (["a", "b"], ["c", "d"]), seed=0)[0]
    0.875
    """
    wins = (training[:, None] > reference) + 0.5 * (training[:, None] == reference)
    generator = np.random.default_rng(derive_seed("membership", seed))
    drawn = []
    for names in patients:
        unique, owner = np.unique(list(names), return_inverse=True)
        times = generator.multinomial(len(unique), np.full(len(unique), 1 / len(unique)), size=RESAMPLES)
        drawn.append(times[:, owner])
    first, second = drawn
    aucs = ((first @ wins) * second).sum(1) / (first.sum(1) * second.sum(1))
    low, high = np.quantile(aucs, [0.025, 0.975])
    return float(wins.mean()), [float(low), float(high)]


def _membership(detector: CopyDetector, synthetic: PreparedCohort, seed: int) -> tuple[float, list[float]]:
    """Score each real case by its nearest synthetic case, whatever the shift and the mirror.

    By voxels: the encoder has been fitted on the training cases, and would tell them from others by itself.
    """
    spectra = torch.stack([sketch(case.image, None, 1).spectrum for case in synthetic])
    scores, patients = [], []
    for real in (detector.training, detector.reference):
        nearest = [float(coarse_voxels(sketch(case.image, None, 1), spectra)[0].max()) for case in real]
        scores.append(np.array(nearest))
        patients.append([facts["patient"] for facts in real.facts])
    return membership_auc(scores[0], scores[1], (patients[0], patients[1]), seed)


def _same_view(settings: DetectorSettings, synthetic: Cohort, training: Cohort) -> DetectorSettings:
    """Return settings under which no scan is filled up where scans and synthetic cases differ in extent."""
    if settings.field_of_view_mm is not None or "crop_or_pad" not in settings.fit:
        return settings
    extent = np.minimum(field_of_view_mm(synthetic), field_of_view_mm(training))
    return settings.model_copy(update={"field_of_view_mm": tuple(float(e) for e in extent)})


def _doubts(
    detector: CopyDetector, copies: Sequence[Match], matches: Sequence[Match], alarm_rate: float, excess: float
) -> list[str]:
    doubts = []
    strangers, level = len(detector.reference), detector.settings.false_alarms / len(DECIDING)
    if strangers + 1 < 1 / level:
        doubts.append(
            f"With {strangers} reference cases each threshold is the likeness of the most alike of them: a detector "
            f"flags about one stranger in {strangers + 1}; {round(1 / level) - 1} cases would give the share asked for."
        )
    for detector_name in DECIDING:
        if detector.thresholds[detector_name] > 0.999:
            doubts.append(f"By {detector_name}, a reference case equals a training case: is one scan filed twice?")
    expected = f"{len(matches) * alarm_rate:.1f} of {len(matches)} strangers would be flagged by chance"
    if copies:
        more = "more than chance explains" if excess < 0.05 else "no more than chance explains"
        doubts.append(f"{len(copies)} synthetic cases are flagged, {more} (p = {excess:.2g}; {expected}).")
    return doubts


def _as_copy(match: Match) -> dict[str, Any]:
    fields = ("case", "nearest", "patient", "score", "threshold", "detector")
    return {field: getattr(match, field) for field in fields} | {"scores": dict(match.scores)}


def _nearest(found: Likeness, detector: str) -> float | None:
    return found.nearest(detector) if detector in found.scores else None


def _ratio(detector: CopyDetector, found: Likeness) -> float:
    """Return the distance to the nearest training case over that to the nearest of another patient; 1 at most."""
    scores = found.scores["embedding"]
    patients = np.array([facts["patient"] for facts in detector.training.facts])
    others = scores[patients != patients[scores.argmax()]]
    first, second = 1 - scores.max(), 1 - others.max(initial=-1)
    return float(first / second) if second > 0 else 1.0


def _write_pictures(
    path: Path, matches: Sequence[Match], synthetic: Cohort, training: Cohort, detector: CopyDetector, count: int
) -> None:
    """Write the most suspicious cases, each beside its nearest training case laid over it, on twice the grid."""
    shown = sorted(matches, key=lambda match: -match.suspicion)[:count]
    grid, spacing_mm = detector.preprocess.grid, detector.preprocess.spacing_mm
    finer = {"grid": tuple(2 * n for n in grid), "spacing_mm": spacing_mm and tuple(s / 2 for s in spacing_mm)}
    fine = detector.preprocess.model_copy(update=finer)
    arrays: dict[str, np.ndarray] = {
        "names": np.array([match.case for match in shown]),
        "scores": np.array([match.score for match in shown]),
    }
    spacing = []
    for match in shown:
        case, near = (
            Preprocessor(fine, cohort.label_table, ANY_UNITS).forward(cohort.read(name))
            for cohort, name in ((synthetic, match.case), (training, match.nearest))
        )
        index = detector.training.names.index(match.nearest)
        laid = lay_over(torch.from_numpy(near.image)[None], match.likeness.maps[index][None], case.image.shape)
        arrays[f"{match.case}_image"] = case.image
        if case.labels is not None:
            arrays[f"{match.case}_labels"] = case.labels
        arrays[f"{match.case}_nearest"] = laid[0].clamp(0, 1).numpy()
        spacing.append(case.geometry.spacing_mm)
    arrays["spacing"] = np.array(spacing)
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)
