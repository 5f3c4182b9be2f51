"""The study: which arm is better, on the same patients, at equal updates, for how many labelled and unlabelled cases?

Takes a split cohort, a plan and the names of arms; gives an experiment per pair of numbers of cases, and one table.

    RUN/                                    the experiment, where there is one (``experiment`` says what lies there)
    RUN/labelled-16_unlabelled-152/         the experiments, where there are several
    RUN/study.json, study.csv, study.md     the table over all of them (``study_table``)
    RUN/report.html                         the page; each experiment of several has one of its own too

The table is written anew after every segmenter and holds what there is by then. Everything resumes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from voxpair import previews, stages
from voxpair.arms import TEACHER, Arm, choose
from voxpair.cohorts.cohort import Cohort
from voxpair.core.errors import InputError
from voxpair.core.run import make_folder, versions, write_json
from voxpair.evaluation.masks.comparison import compare_protocols
from voxpair.experiment import Job, Materials, fit_arms, place, room_for
from voxpair.plans import Plan
from voxpair.stages import Session
from voxpair.study_table import Row, describe_arm, write_tables

DEFAULT_ARMS = ("baseline_equal_updates", "medical_diffusion", "ours", "ours_real_last")
RIVALS = ("medical_diffusion", "self_training", "strong_augmentation", "domain_randomisation")


@dataclass(frozen=True)
class Sweep:
    """What is varied beside the arms; an empty sequence leaves the plan's.

    Args:
        labelled, unlabelled: numbers of training cases; every pair of them is an experiment of its own.
        networks, ratios: each arm once for each (see ``arms.choose``), within one experiment.
    """

    labelled: Sequence[int] = ()
    unlabelled: Sequence[int] = ()
    networks: Sequence[str] = ()
    ratios: Sequence[float] = ()


def run_study(
    cohort: Path | Cohort,
    output: Path,
    plan: Plan,
    session: Session,
    *,
    arms: Sequence[str] = DEFAULT_ARMS,
    seeds: int = 3,
    sweep: Sweep = Sweep(),
    target: Path | Cohort | None = None,
    workers: int | None = 1,
) -> Path:
    """Do the study, or go on with it, and return the path of its report.

    Args:
        cohort: real scans; where it has no split yet, it is split as the plan says.
        arms: names in ``arms.ARMS``; what they require is fitted, judged and shown too.
        seeds: segmenters per arm; a larger number later adds to what is there.
        target: the cohort of the arms e3_1 to e3_4.
        workers: segmenters side by side, each in a process of its own; None takes as many as there is room for. A
            script that asks for more than one must not compute on import (``if __name__ == "__main__":``).

    Raises:
        InputError: an unknown arm or network, too few cases, patients who would both teach and test.

    Example:
        ``run_study("cohort", Path("study"), voxpair.plan("demo"), Session(), sweep=Sweep(labelled=[8, 16]))``
    """
    session = replace(session, nested=True)
    whole = _split(stages.opened(cohort), plan, session)
    other = _split(stages.opened(target), plan, session) if target is not None else None
    chosen = choose([TEACHER, *arms] if plan.pseudo_labels else arms, sweep.networks, sweep.ratios)
    workers = workers or room_for(len(chosen) * seeds, session.device)
    counts = list(product(sweep.labelled or [plan.cases.labelled], sweep.unlabelled or [plan.cases.unlabelled]))
    experiments = []
    for labelled, unlabelled in counts:
        cases = plan.cases.model_copy(update={"labelled": labelled, "unlabelled": unlabelled})
        folder = output / _name(labelled, unlabelled) if len(counts) > 1 else output
        experiments.append(Materials(cases.limit(whole), make_folder(folder), plan, other))
    rows: dict[Path, list[Row]] = {}
    for materials in experiments:
        session.progress.say(f"{_counts(materials.cohort)}: {len(chosen)} arms, {seeds} seeds, {workers} side by side")

        def tabulate(job: Job, seconds: float, materials: Materials = materials) -> None:
            rows[materials.folder] = _rows(materials, chosen, seeds)
            write_tables(output, plan, [row for part in rows.values() for row in part])

        fit_arms(materials, chosen, seeds, session, workers=workers, finished=tabulate)
        _finish(materials, chosen, session)
        if materials.folder != output:
            stages.write_report(materials.folder)
    if len(experiments) > 1:
        overview = _summary(whole, chosen, plan, session, title=output.name)
        write_json(output / "summary.json", {**overview, "experiments": [m.folder.name for m in experiments]})
    return stages.write_report(output)


def _split(cohort: Cohort, plan: Plan, session: Session) -> Cohort:
    cohort = stages.split_if_needed(cohort, (plan.cases.train, plan.cases.val, plan.cases.test), session)
    if not (cohort.split_counts.get("val") or cohort.split_counts.get("test")):
        raise InputError(f"{cohort.folder} has no held-out cases (val or test), so no arm can be judged; split it")
    return cohort


def _rows(materials: Materials, arms: Mapping[str, Arm], seeds: int) -> list[Row]:
    """Compare what has been evaluated so far, and describe every arm of which there is something."""
    found = {name: _evaluated(materials.folder, name, seeds) for name in arms}
    found = {name: folders for name, folders in found.items() if folders}
    path = materials.folder / "evaluation" / "comparison.json"
    compared = compare_protocols(found, comparisons_of(arms, found), path)
    train = materials.cohort.split("train")
    counts = (len(train.labelled()), len(train.unlabelled()))
    updates = {name: arms[name].settings(materials.plan.segmentation).loop.updates for name in found}
    return [row for name in found for row in describe_arm(counts, name, arms[name].about, updates[name], compared)]


def _evaluated(folder: Path, name: str, seeds: int) -> list[Path]:
    """Return the evaluation folders of the seeds that are there, up to the first that is not."""
    places = [folder / "evaluation" / place(name, repeat) for repeat in range(seeds)]
    there = [path for path in places if (path / "masks.json").exists()]
    return there if there == places[: len(there)] else []


def comparisons_of(arms: Mapping[str, Arm], names: Sequence[str] | Mapping[str, object]) -> list[tuple[str, str]]:
    """Return who is compared with whom: the primary pair first, then all others with the first arm, then with rivals.

    An arm is only compared with arms that are judged on the same cohort and use the same network.

    >>> arms = choose(["baseline_equal_updates", "medical_diffusion", "ours"])
    >>> comparisons_of(arms, arms)[0]
    ('ours', 'baseline_equal_updates')
    >>> comparisons_of(arms, arms)[-1]
    ('ours', 'medical_diffusion')
    """
    groups: dict[tuple[bool, str | None], list[str]] = {}
    for name in names:
        groups.setdefault((arms[name].on_target, arms[name].network), []).append(name)
    pairs = []
    for group in groups.values():
        reference, *others = group
        ours = [name for name in others if name.startswith("ours")][::-1]
        pairs += [(name, reference) for name in [*ours, *(name for name in others if name not in ours)]]
        pairs += [(a, b) for a in ours for b in others if b.startswith(RIVALS)]
    return pairs


def _finish(materials: Materials, arms: Mapping[str, Arm], session: Session) -> None:
    """Leave behind what the page of one experiment shows."""
    cohort, folder, plan = materials.cohort, materials.folder, materials.plan
    facts = _summary(cohort, arms, plan, session, title=folder.name)
    facts["held_out"] = materials.judged(next(iter(arms.values())))[1]
    previews.write_pairs(folder / "previews/real.npz", cohort.split("train").labelled())
    if any("synthetic" in arm.made or arm.pretrained for arm in arms.values()):
        pairs = materials.synthetic(replace(session, cache=folder / "prepared"))
        previews.write_pairs(folder / "previews/synthetic.npz", pairs)
        facts["synthetic"] = len(pairs)
    write_json(folder / "summary.json", facts)


def _summary(cohort: Cohort, arms: Mapping[str, Arm], plan: Plan, session: Session, *, title: str) -> dict[str, Any]:
    return {
        "title": title,
        "about": "; ".join(filter(None, (plan.about, _counts(cohort)))),
        "seed": session.seed,
        "versions": versions(),
        "protocols": {name: arm.about for name, arm in arms.items()},
        "settings": plan.model_dump(mode="json"),
        "cohort": previews.describe(cohort),
    }


def _counts(cohort: Cohort) -> str:
    train = cohort.split("train")
    return f"{len(train.labelled())} labelled and {len(train.unlabelled())} unlabelled training cases"


def _name(labelled: int | None, unlabelled: int | None) -> str:
    """Return the folder of an experiment.

    >>> _name(16, None), _name(16, 152)
    ('labelled-16', 'labelled-16_unlabelled-152')
    """
    parts = {"labelled": labelled, "unlabelled": unlabelled}
    return "_".join(f"{word}-{count}" for word, count in parts.items() if count is not None) or "all"
