"""The main job: scans in, synthetic pairs, better segmenters and a report out, in one folder.

    RUN/cohort/                         the scans as a cohort, checked and split
    RUN/generator/                      what was learnt of p(image, labels)
    RUN/synthetic/                      a cohort of new pairs
    RUN/pretraining/                    an encoder, from images alone
    RUN/segmenters/PROTOCOL/            the papers' three protocols, at equal numbers of updates
    RUN/predictions/, RUN/evaluation/   the same below each; further seeds in PROTOCOL/seedN/
    RUN/previews/, summary.json, timings.json, report.html

Every stage is a verb of its own (``stages.py``); the same call again goes on with the first that is not finished.

    protocol             encoder from    fitted on           source
    baseline             chance          real                Ikuta et al. 2024 and Hu et al. 2024, section 3.4
    medical_diffusion    pretraining     real                the same, their row of that name
    ours                 pretraining     real and synthetic  the same
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from voxpair import previews, stages
from voxpair.cohorts.cohort import Cohort
from voxpair.core.errors import InputError
from voxpair.core.run import make_folder, read_json, versions, write_json
from voxpair.core.settings import Settings
from voxpair.evaluation.audit.memorisation import AuditSettings
from voxpair.evaluation.masks.comparison import compare_protocols, rank_cases
from voxpair.generators.joint_ldm.generator import JointLDMSettings
from voxpair.phantom.heart_cohort import PhantomSettings
from voxpair.pretraining.masked_modelling import PretrainSettings
from voxpair.segmentation.segmenter import SegmenterSettings
from voxpair.stages import Scans, Session


@dataclass(frozen=True)
class Protocol:
    """How a segmenter is made: from a pretrained encoder or not, with synthetic pairs or not."""

    pretrained: bool
    synthetic: bool


PROTOCOLS = {
    "baseline": Protocol(pretrained=False, synthetic=False),
    "medical_diffusion": Protocol(pretrained=True, synthetic=False),
    "ours": Protocol(pretrained=True, synthetic=True),
}


class CaseCounts(Settings):
    """How many cases there are of what.

    Attributes:
        phantom: hearts that ``voxpair demo`` makes.
        train, val, test: patients; a number, or a fraction below 1.
        labelled: training cases whose labels are used; None uses all there are.
        unlabelled: training cases used for their images alone: those that have no labels, and those beyond
            ``labelled``; None uses all there are.
    """

    phantom: int = Field(40, ge=4)
    train: float = 0.8
    val: float = 0.2
    test: float = 0.0
    labelled: int | None = Field(None, ge=1)
    unlabelled: int | None = Field(None, ge=0)


class Plan(Settings):
    """Settings of the whole main job; a preset is one of these.

    Attributes:
        synthetic_per_real: synthetic pairs drawn per labelled training case (the papers: 3).
        pretrain_on: "synthetic" images alone, as in the papers, or "all" training images, real ones too.
        protocols: which segmenters are fitted, in order.
        seeds: segmenters per protocol that differ in nothing but their seed.
    """

    about: str = ""
    cases: CaseCounts = CaseCounts()
    phantom: PhantomSettings = PhantomSettings()
    generator: JointLDMSettings = JointLDMSettings()
    synthetic_per_real: float = Field(3.0, gt=0)
    pretraining: PretrainSettings = PretrainSettings()
    pretrain_on: str = Field("all", pattern="^(all|synthetic)$")
    segmentation: SegmenterSettings = SegmenterSettings()
    audit: AuditSettings = AuditSettings()
    protocols: tuple[str, ...] = tuple(PROTOCOLS)
    seeds: int = Field(1, ge=1)

    @field_validator("protocols")
    @classmethod
    def _known(cls, protocols: tuple[str, ...]) -> tuple[str, ...]:
        if not protocols or not set(protocols) <= set(PROTOCOLS):
            raise ValueError(f"protocols are {', '.join(PROTOCOLS)}; got {', '.join(protocols) or 'none'}")
        return protocols


def run(scans: Scans, output: Path, plan_for: Callable[[Cohort], Plan], session: Session) -> Path:
    """Do the main job on a user's scans and return the path of the report.

    Args:
        plan_for: gives the plan once the cohort is known, since an automatic plan depends on it.
    """
    clock = _Clock(output / "timings.json", session)
    with clock("import"):
        if (scans.source / "cases.csv").exists():
            cohort = Cohort.open(scans.source)
        elif (output / "cohort" / "dataset.json").exists() and not session.overwrite:
            cohort = Cohort.open(output / "cohort")
        else:
            cohort = stages.import_scans(scans, output / "cohort", session)
    with clock("check"):
        _refuse_errors(cohort, session)
    return _pairs_and_segmenters(cohort, output, plan_for(cohort), session, clock)


def demo(output: Path, plan: Plan, session: Session) -> Path:
    """Do the main job on phantom hearts and return the path of the report."""
    clock = _Clock(output / "timings.json", session)
    with clock("phantom hearts"):
        cohort = stages.make_phantoms(output / "cohort", plan.cases.phantom, plan.phantom, session, workers=2)
    return _pairs_and_segmenters(cohort, output, plan, session, clock)


def _pairs_and_segmenters(cohort: Cohort, output: Path, plan: Plan, session: Session, clock: _Clock) -> Path:
    with clock("split"):
        if set(cohort.split_counts) == {""}:
            stages.split(cohort.folder, (plan.cases.train, plan.cases.val, plan.cases.test), session)
            cohort = Cohort.open(cohort.folder)
    cohort = limit(cohort, plan.cases)
    labelled = len(cohort.split("train").labelled())
    if not labelled:
        raise InputError(f"no training case of {cohort.folder} has labels; at least a few are needed")

    with clock("generator"):
        stages.fit(cohort, output / "generator", plan.generator, session)
    with clock("synthetic pairs"):
        count = max(1, round(plan.synthetic_per_real * labelled))
        synthetic = stages.sample(output / "generator", output / "synthetic", count, session)
    if any(PROTOCOLS[name].pretrained for name in plan.protocols):
        with clock("pretraining"):
            images = [synthetic, cohort] if plan.pretrain_on == "all" else [synthetic]
            stages.pretrain(images, output / "pretraining", plan.pretraining, session)

    held_out = "test" if cohort.split_counts.get("test") else "val"
    evaluated: dict[str, list[Path]] = {}
    for name in plan.protocols:
        with clock(f"segmenter {name}"):
            evaluated[name] = [
                _segment(name, repeat, held_out, cohort, synthetic, output, plan, session)
                for repeat in range(plan.seeds)
            ]
    with clock("comparison"):
        pairs = [
            (a, b) for a, b in (("ours", "baseline"), ("ours", "medical_diffusion"), ("medical_diffusion", "baseline"))
        ]
        pairs = [(a, b) for a, b in pairs if a in evaluated and b in evaluated]
        compare_protocols(evaluated, pairs, output / "evaluation" / "comparison.json")
        previews.write_pairs(output / "previews" / "real.npz", cohort.split("train").labelled())
        previews.write_pairs(output / "previews" / "synthetic.npz", synthetic)
        _write_predictions(cohort.split(held_out), plan.protocols, output)
        _write_summary(output, cohort, synthetic, held_out, plan, session)
    with clock("quality of the pairs"):
        judge = output / "segmenters/baseline" if "baseline" in plan.protocols else plan.segmentation
        stages.evaluate_pairs(synthetic, cohort, output / "pairs", session, segmenter=judge)
    with clock("audit"):
        _audit(cohort, synthetic, output, plan, session)
    with clock("report"):
        return stages.write_report(output)


def _audit(cohort: Cohort, synthetic: Cohort, output: Path, plan: Plan, session: Session) -> None:
    """Audit where there are enough held-out patients to know how alike strangers are; else say so."""
    held_out = sum(record.split in ("val", "test") for record in cohort.records)
    needed = plan.audit.detector.smallest_reference
    if held_out < needed:
        session.progress.say(f"  not audited for copies: {held_out} held-out cases, {needed} are needed")
        return
    detector = plan.audit.detector.model_copy(update={"fit": plan.generator.preprocess.fit})  # its eyes
    settings = plan.audit.model_copy(update={"detector": detector})
    found = stages.audit(synthetic, cohort, output / "audit", session, settings=settings)
    for line in found.as_text().splitlines():
        session.progress.say(f"  {line}")


def limit(cohort: Cohort, counts: CaseCounts) -> Cohort:
    """Return a view of ``cohort`` with as many labelled and unlabelled training cases as ``counts`` says.

    The first cases of the split keep their labels; the labels of the others are not merely unused but out of reach.
    """
    train = [r for r in cohort.records if r.split == "train"]
    with_labels = [r for r in train if r.labels_path is not None]
    wanted = len(with_labels) if counts.labelled is None else counts.labelled
    if wanted > len(with_labels):
        raise InputError(f"cases.labelled={wanted}, but only {len(with_labels)} training cases have labels")
    kept = {r.name for r in with_labels[:wanted]}
    hidden = [replace(r, labels_path=None) for r in train if r.name not in kept]
    if counts.unlabelled is not None:
        if counts.unlabelled > len(hidden):
            raise InputError(f"cases.unlabelled={counts.unlabelled}, but only {len(hidden)} training cases are left")
        hidden = hidden[: counts.unlabelled]
    views = {r.name: r for r in (*(r for r in train if r.name in kept), *hidden)}
    records = (r if r.split != "train" else views.get(r.name) for r in cohort.records)
    return replace(cohort, records=tuple(record for record in records if record is not None))


def _segment(
    name: str, repeat: int, held_out: str, cohort: Cohort, synthetic: Cohort, output: Path, plan: Plan, session: Session
) -> Path:
    """Fit, predict and evaluate one segmenter; return its evaluation folder."""
    protocol, session = PROTOCOLS[name], replace(session, seed=session.seed + repeat)
    place = Path(name) / f"seed{session.seed}" if repeat else Path(name)
    segmenter = stages.segment_fit(
        [cohort, synthetic] if protocol.synthetic else [cohort],
        output / "segmenters" / place,
        plan.segmentation,
        session,
        encoder=output / "pretraining" if protocol.pretrained else None,
    )
    predictions = stages.segment_predict(segmenter, cohort, output / "predictions" / place, session, split=held_out)
    stages.evaluate_masks(predictions, cohort, output / "evaluation" / place, session)
    return output / "evaluation" / place


def _write_predictions(reference: Cohort, protocols: Sequence[str], output: Path) -> None:
    """Show what each protocol made of the last protocol's worst, median and best case."""
    ranked = rank_cases(output / "evaluation" / protocols[-1])
    shown = [ranked[0], ranked[len(ranked) // 2], ranked[-1]] if len(ranked) > 2 else ranked
    predictions = {name: Cohort.open(output / "predictions" / name) for name in protocols}
    previews.write_predictions(output / "previews" / "predictions.npz", reference, predictions, shown)


def _refuse_errors(cohort: Cohort, session: Session) -> None:
    findings = stages.check(cohort.folder, session)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        first = errors[0]
        raise InputError(
            f"{len(errors)} errors in {cohort.folder}; the first: {first.case}: {first.what} "
            f"'voxpair check {cohort.folder} --fix MENDED' mends what is safe"
        )
    warnings = sum(finding.severity == "warning" for finding in findings)
    if warnings:
        session.progress.say(f"  {warnings} warnings; 'voxpair check {cohort.folder}' lists them")


class _Clock:
    """Seconds per stage, over all calls that it took; ``timings.json``."""

    def __init__(self, path: Path, session: Session) -> None:
        make_folder(path.parent)
        self.path, self.progress = path, session.progress
        self.seconds: dict[str, float] = read_json(path) if path.exists() else {}

    @contextmanager
    def __call__(self, stage: str):
        self.progress.say(stage)
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.monotonic() - start, 2)
            write_json(self.path, self.seconds)


def _write_summary(
    output: Path, cohort: Cohort, synthetic: Cohort, held_out: str, plan: Plan, session: Session
) -> None:
    facts: Mapping[str, Any] = {
        "title": cohort.folder.name if cohort.folder.name != "cohort" else output.name,
        "about": plan.about,
        "seed": session.seed,
        "versions": versions(),
        "held_out": held_out,
        "synthetic": len(synthetic),
        "settings": plan.model_dump(mode="json"),
        "cohort": previews.describe(cohort),
    }
    write_json(output / "summary.json", facts)
