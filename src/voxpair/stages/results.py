"""Stages that turn cohorts into numbers, and numbers into a page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from voxpair.cohorts.cohort import Cohort
from voxpair.core.errors import InputError
from voxpair.evaluation.masks import NSD_TOLERANCE_MM
from voxpair.stages.claims import Session, already_done, claim, finish, opened, resolve_device, stage_facts
from voxpair.stages.segmentation import segment_fit

if TYPE_CHECKING:
    from voxpair.evaluation.audit.memorisation import Audit, AuditSettings
    from voxpair.evaluation.masks.summary import Summary
    from voxpair.evaluation.pairs.measures import Measure
    from voxpair.segmentation.segmenter import Segmenter, SegmenterSettings


def evaluate_masks(
    predictions: Path | Cohort,
    reference: Path | Cohort,
    output: Path,
    session: Session,
    *,
    tolerance_mm: float = NSD_TOLERANCE_MM,
) -> Summary:
    """Compare predicted with reference labels: ``masks.csv`` and ``masks.json`` in ``output``.

    Of a reference that is split, only the cases of the splits that the predictions come from are expected.
    """
    from voxpair.evaluation.masks.evaluate import evaluate_masks as evaluate
    from voxpair.evaluation.masks.summary import read_summary

    predicted, reference = opened(predictions), opened(reference).labelled()
    wanted = {record.split for record in predicted.records}
    if None not in wanted:
        reference = replace(reference, records=tuple(r for r in reference.records if r.split in wanted))
    if not set(predicted.names) & set(reference.names):
        raise InputError(
            f"{predicted.folder} ({', '.join(predicted.names[:3])} …) and the labelled cases of {reference.folder} "
            f"({', '.join(reference.names[:3])} …) have no case in common: predictions are matched by name"
        )
    taught = sum(record.split == "train" for record in reference.records)
    if taught:
        session.progress.say(
            f"  {taught} of the {len(reference)} judged cases are training cases of {reference.folder}: a segmenter "
            "that was fitted on them scores too well; 'voxpair segment predict ... --split test' leaves them out"
        )
    inputs = {"predictions": predicted.digest(), "reference": reference.digest(), "tolerance_mm": tolerance_mm}
    with claim(output, "evaluation of masks", None, session, inputs) as run:
        if not already_done(run.path, session):
            evaluate(predicted, reference, run.path, tolerance_mm=tolerance_mm, progress=session.progress)
            finish(run.path)
        return read_summary(run.path / "masks.json")


def evaluate_pairs(
    synthetic: Path | Cohort,
    real: Path | Cohort,
    output: Path,
    session: Session,
    *,
    segmenter: Path | SegmenterSettings,
    network: tuple[str, Path] | None = None,
) -> list[Measure]:
    """Measure synthetic pairs against real ones: ``pairs.json``, ``pairs.csv`` and ``curves.json`` in ``output``.

    Args:
        segmenter: run folder of a segmenter fitted on real cases alone: it says whether image and labels agree, and
            fidelity is measured with its encoder. Settings make one, of the training cases of ``real``.
        network: a feature network of others in its place: its name and the file of its weights.

    Raises:
        InputError: the segmenter has seen synthetic cases; the file does not hold that network.
    """
    from voxpair.evaluation.pairs.evaluate import Judges
    from voxpair.evaluation.pairs.evaluate import evaluate_pairs as evaluate
    from voxpair.evaluation.pairs.measures import read_measures
    from voxpair.evaluation.pairs.perceptual import read_network
    from voxpair.segmentation.features import EncoderFeatures

    made, there = opened(synthetic), opened(real)
    others = read_network(*network, device=resolve_device(session.device)) if network else None
    judge = real_only_segmenter(segmenter, session) if isinstance(segmenter, Path) else None
    inputs = {
        "synthetic": made.digest(),
        "real": there.digest(),
        "segmenter": judge.digest if judge else segmenter.model_dump(mode="json"),
        "network": others.digest if others else "",
    }
    with claim(output, "pairs", None, session, inputs) as run:
        if not already_done(run.path, session):
            if judge is None:
                segmenter = segment_fit([there], run.path / "segmenter", segmenter, session)
                judge = real_only_segmenter(segmenter, session)
            judges = Judges(EncoderFeatures(judge, segmenter.name), judge.predict, others)
            evaluate(made, there, run.path, judges=judges, seed=session.seed, progress=session.progress)
            finish(run.path)
        return read_measures(run.path / "pairs.json")


def audit(
    synthetic: Path | Cohort,
    training: Path | Cohort,
    output: Path,
    session: Session,
    *,
    reference: Path | Cohort | None = None,
    settings: AuditSettings | None = None,
) -> Audit:
    """Ask whom a synthetic cohort copies: ``audit.json`` and ``copies.npz`` in ``output``.

    The audit audits itself with planted copies; call ``check()`` on what is returned to hear if it missed them.

    Args:
        training: the cohort that the generator was fitted on; of a split one, its training cases.
        reference: real cases of other patients; by default the held-out cases of ``training``.

    Raises:
        InputError: no held-out cases, too few of them, or patients on both sides.
    """
    from voxpair.evaluation.audit.memorisation import AuditSettings, read_audit
    from voxpair.evaluation.audit.memorisation import audit as examine

    settings = settings or AuditSettings()
    made, real = opened(synthetic), opened(training)
    seen, strangers = seen_and_held_out(real)
    if reference is not None:
        strangers = opened(reference)
    if not len(strangers):
        raise InputError(
            f"{real.folder} holds no case outside split 'train', so nobody knows how alike strangers are; name a "
            "cohort of other patients with --reference"
        )
    inputs = {"synthetic": made.digest(), "training": seen.digest(), "reference": strangers.digest()}
    with claim(output, "audit", settings, session, inputs) as run:
        if not already_done(run.path, session):
            examine(made, seen, strangers, run.path, settings, run.child("detector"))
            finish(run.path)
        return read_audit(run.path / "audit.json")


def seen_and_held_out(real: Cohort) -> tuple[Cohort, Cohort]:
    """Return the training cases and the others of a cohort; all cases are training cases where there is no split."""
    if not set(real.split_counts) & {"train", "val", "test"}:
        return real, replace(real, records=())
    held_out = tuple(record for record in real.records if record.split in ("val", "test"))
    return real.split("train"), replace(real, records=held_out)


def real_only_segmenter(run: Path, session: Session) -> Segmenter:
    """Load a segmenter that may judge synthetic cases, since it has never seen one.

    Raises:
        InputError: it was fitted on synthetic pairs, or its encoder was pretrained.
    """
    from voxpair.segmentation.segmenter import Segmenter

    inputs = stage_facts(run, "segmenter")["inputs"]
    if len(inputs["cohorts"]) > 1 or inputs["encoder"]:
        raise InputError(
            f"the segmenter in {run} has seen synthetic cases, or an encoder that may have; judges of synthetic cases "
            "are fitted on real cases alone: voxpair segment fit COHORT -o JUDGE"
        )
    return Segmenter.load(run / "model", device=resolve_device(session.device))


def write_report(run: Path) -> Path:
    """Write ``report.html`` about the run folder ``run`` and return its path."""
    from voxpair.report import page

    return page.write_report(run)
