"""The main job: scans in, synthetic pairs, better segmenters and a report out, in one folder.

    RUN/cohort/                         the scans as a cohort, checked and split
    RUN/generator/                      what was learnt of p(image, labels)
    RUN/synthetic/                      a cohort of new pairs
    RUN/pretraining/                    an encoder, from images alone
    RUN/segmenters/PROTOCOL/            the papers' three protocols, at equal numbers of updates
    RUN/predictions/, RUN/evaluation/   the same below each; further seeds in PROTOCOL/seedN/
    RUN/previews/, summary.json, timings.json, report.html

Every stage is a verb of its own (``stages/``); the same call again goes on with the first that is not finished. What
the protocols are is said in ``arms``, how they are fitted in ``experiment``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from voxpair import previews, stages
from voxpair.arms import PROTOCOLS
from voxpair.cohorts.cohort import Cohort
from voxpair.core.errors import InputError
from voxpair.core.run import make_folder, read_json, versions, write_json
from voxpair.evaluation.masks.comparison import compare_protocols, rank_cases
from voxpair.experiment import Materials, fit_arms
from voxpair.plans import Plan
from voxpair.stages import Scans, Session


def run(scans: Scans, output: Path, plan_for: Callable[[Cohort], Plan], session: Session) -> Path:
    """Do the main job on a user's scans and return the path of the report.

    A cohort that voxpair made is used where it is, and split there if it is not yet; other scans are imported.

    Args:
        plan_for: gives the plan once the cohort is known, since an automatic plan depends on it.
    """
    session = replace(session, nested=True)
    scans.check()
    clock = _Clock(output / "timings.json", session)
    with clock("import"):
        if scans.are_a_cohort:
            cohort = Cohort.open(scans.source)
        else:
            cohort = stages.import_scans(scans, output / "cohort", session)
    with clock("check"):
        _refuse_errors(cohort, session)
    return _pairs_and_segmenters(cohort, output, plan_for(cohort), session, clock)


def demo(output: Path, plan: Plan, session: Session) -> Path:
    """Do the main job on phantom hearts and return the path of the report."""
    session = replace(session, nested=True)
    clock = _Clock(output / "timings.json", session)
    with clock("phantom hearts"):
        cohort = stages.make_phantoms(output / "cohort", plan.cases.phantom, plan.phantom, session, workers=2)
    return _pairs_and_segmenters(cohort, output, plan, session, clock)


def _pairs_and_segmenters(cohort: Cohort, output: Path, plan: Plan, session: Session, clock: _Clock) -> Path:
    with clock("split"):
        cohort = stages.split_if_needed(cohort, (plan.cases.train, plan.cases.val, plan.cases.test), session)
    session = replace(session, cache=output / "prepared")
    materials = Materials(plan.cases.limit(cohort), output, plan)
    cohort, arms = materials.cohort, {name: PROTOCOLS[name] for name in plan.protocols}
    with clock("generator"):
        materials.generator(session)
    with clock("synthetic pairs"):
        synthetic = materials.synthetic(session)
    if pretrained := [arm for arm in arms.values() if arm.pretrained]:
        with clock("pretraining"):
            materials.encoder(pretrained[0], session)
    evaluated = fit_arms(
        materials, arms, plan.seeds, session, finished=lambda job, seconds: clock.add(f"segmenter {job.name}", seconds)
    )

    held_out = materials.judged(PROTOCOLS["baseline"])[1]
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
            f"{len(errors)} error{'s' if len(errors) > 1 else ''} in {cohort.folder}; the first: {first.as_text()} "
            f"'voxpair check {cohort.folder} --fix MENDED' mends what is safe; then run on MENDED"
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
            self.add(stage, time.monotonic() - start)

    def add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + seconds, 2)
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
