"""One experiment: segmenters of several arms and seeds on the same patients, side by side where there is room.

Takes a split cohort, a plan and arms; gives a folder of segmenters, predictions and evaluations. ``voxpair run`` fits
the papers' three protocols here, ``voxpair study`` whatever arms it is asked for.

    RUN/generator/, synthetic/, pretraining/, randomised/       what arms are made of (``Materials``), each made once
    RUN/pseudo_labelled/TEACHER/[seedK/]                        unlabelled training cases, as a fitted arm labels them
    RUN/segmenters/ARM/[seedK/], predictions/…, evaluation/…    one segmenter; the first seed has no folder of its own
    RUN/prepared/                                               cases on the networks' grid, shared by all of them

Every stage resumes, and so does the whole.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from voxpair import stages
from voxpair.arms import ARMS, TEACHER, Arm, Made
from voxpair.cohorts.cohort import Cohort
from voxpair.cohorts.splits import check_no_overlap
from voxpair.core.errors import InputError
from voxpair.core.run import SILENT
from voxpair.generators.domain_randomisation.generator import DomainRandomisationSettings
from voxpair.plans import Plan
from voxpair.stages import Selection, Session

BYTES_PER_WORKER = 3e9
"""Memory that a segmenter beside others is given, as a rule of thumb."""


@dataclass(frozen=True)
class Materials:
    """What arms are made of. Every method makes a thing once; called again it returns what is there.

    Args:
        cohort: split; its training cases teach, all in one place: generator, pretraining, segmenters.
        folder: where everything of this study lies.
        target: another split cohort, for the arms that are fitted and judged there.
    """

    cohort: Cohort
    folder: Path
    plan: Plan
    target: Cohort | None = None

    def judged(self, arm: Arm) -> tuple[Cohort, str]:
        """Return the cohort that an arm is fitted on and the name of its split that it is judged on."""
        cohort = self.target if arm.on_target else self.cohort
        return cohort, "test" if cohort.split_counts.get("test") else "val"

    def teacher(self, session: Session) -> Path:
        """Fit the segmenter that labels the unlabelled cases for the generator, and judges its pairs."""
        Job(TEACHER, ARMS[TEACHER], 0, self, session)()
        return self.folder / "segmenters" / TEACHER

    def generator(self, session: Session) -> Path:
        """Fit the generator; with ``plan.pseudo_labels`` also on the unlabelled cases, as the teacher labels them."""
        return stages.fit(
            self.cohort,
            self.folder / "generator",
            self.plan.generator,
            session,
            generator=self.plan.uses,
            pseudo_labels=self.teacher(session) if self.plan.pseudo_labels else None,
        )

    def synthetic(self, session: Session) -> Cohort:
        """Draw ``plan.synthetic_per_real`` pairs per labelled training case; ``plan.select`` says which are kept.

        What the rules learn from holds no case that an arm is judged on.
        """
        selection = None
        if self.plan.select is not None:
            _, judged = self.judged(ARMS[TEACHER])
            real = replace(self.cohort, records=tuple(r for r in self.cohort.records if r.split != judged))
            judge = self.teacher(session) if "agreement" in self.plan.select.rules else None
            selection = Selection(real, self.plan.select, judge)
        generator = self.generator(session)
        return stages.sample(generator, self.folder / "synthetic", self._pairs, session, selection=selection)

    def randomised(self, session: Session) -> Cohort:
        """Paint the label maps of the training cases with random intensities, as many as there are synthetic pairs."""
        settings = DomainRandomisationSettings(preprocess=self.plan.generator.preprocess)
        folder = self.folder / "randomised"
        run = stages.fit(self.cohort, folder / "generator", settings, session, generator="domain_randomisation")
        return stages.sample(run, folder / "pairs", self._pairs, session)

    def encoder(self, arm: Arm, session: Session) -> Path:
        """Pretrain on synthetic images, and on the real training images too unless ``plan.pretrain_on`` forbids it."""
        images = [self.synthetic(session)] + ([self.cohort] if self.plan.pretrain_on == "all" else [])
        folder = self.folder / (f"pretraining@{arm.network}" if arm.network else "pretraining")
        return stages.pretrain(images, folder, arm.pretraining(self.plan.pretraining), session)

    def pseudo_labelled(self, teacher: str, repeat: int, session: Session) -> Cohort:
        """Let a fitted arm label the unlabelled training cases."""
        segmenter, output = (self.folder / name / place(teacher, repeat) for name in ("segmenters", "pseudo_labelled"))
        return stages.segment_predict(segmenter, self.unlabelled, output, session)

    def made(self, arm: Arm, repeat: int, session: Session) -> list[Cohort]:
        """Return the made cases that an arm sees beside the real ones, a cohort of each kind."""
        make: dict[Made, Callable[[], Cohort]] = {
            "synthetic": lambda: self.synthetic(session),
            "randomised": lambda: self.randomised(session),
            "pseudo_labelled": lambda: self.pseudo_labelled(arm.teacher, repeat, session),
        }
        return [make[kind]() for kind in arm.made]

    @property
    def unlabelled(self) -> Cohort:
        """The training cases without labels; an InputError where there are none."""
        found = self.cohort.split("train").unlabelled()
        if not len(found):
            raise InputError(
                f"no training case of {self.cohort.folder} is without labels, so there is nothing to label; hide "
                "labels (cases.labelled, --labelled), or leave out what needs pseudo-labels"
            )
        return found

    @property
    def _pairs(self) -> int:
        return max(1, round(self.plan.synthetic_per_real * len(self.cohort.split("train").labelled())))


@dataclass(frozen=True)
class Job:
    """One segmenter: fitted, used on the held-out cases, evaluated. Returns its arm, seed, and the seconds it took."""

    name: str
    arm: Arm
    repeat: int
    materials: Materials
    session: Session  # of the experiment: the materials have its seed, the segmenter one of its own
    teaches: bool = False  # whether other arms need the unlabelled cases as this one labels them

    @property
    def evaluation(self) -> Path:
        return self.materials.folder / "evaluation" / place(self.name, self.repeat)

    def __call__(self) -> float:
        began = time.monotonic()
        materials, arm, folder = self.materials, self.arm, self.materials.folder
        cohort, held_out = materials.judged(arm)
        made = materials.made(arm, self.repeat, self.session)
        encoder = materials.encoder(arm, self.session) if arm.pretrained else None
        session = replace(self.session, seed=self.session.seed + self.repeat)
        where = place(self.name, self.repeat)
        segmenter = stages.segment_fit(
            [cohort, *made],
            folder / "segmenters" / where,
            arm.settings(materials.plan.segmentation),
            session,
            encoder=encoder,
            start=folder / "segmenters" / place(arm.start, self.repeat) if arm.start else None,
        )
        predictions = stages.segment_predict(segmenter, cohort, folder / "predictions" / where, session, split=held_out)
        stages.evaluate_masks(predictions, cohort, self.evaluation, session)
        if self.teaches:
            materials.pseudo_labelled(self.name, self.repeat, self.session)
        return time.monotonic() - began


def place(name: str, repeat: int) -> Path:
    """Return where a segmenter lies below ``segmenters/``, ``predictions/`` and ``evaluation/``.

    >>> place("ours", 0).as_posix(), place("ours", 2).as_posix()
    ('ours', 'ours/seed2')
    """
    return Path(name) / f"seed{repeat}" if repeat else Path(name)


def fit_arms(
    materials: Materials,
    arms: Mapping[str, Arm],
    seeds: int,
    session: Session,
    *,
    workers: int = 1,
    finished: Callable[[Job, float], None] = lambda job, seconds: None,
) -> dict[str, list[Path]]:
    """Fit, use and evaluate every arm with every seed; return the evaluation folders by arm.

    Args:
        arms: in an order in which each comes behind what it requires.
        seeds: segmenters per arm that differ in nothing but their seed; all arms of one before the next.
        workers: segmenters fitted side by side, each in a process of its own.
        finished: called after each job with the seconds that it took now.

    Raises:
        InputError: an arm lacks what it is made of; patients of the target's held-out cases have taught.
    """
    session = replace(session, cache=materials.folder / "prepared")
    teachers = {arm.teacher for arm in arms.values()}
    jobs = [
        Job(name, arm, repeat, materials, session, teaches=name in teachers)
        for repeat in range(seeds)
        for name, arm in arms.items()
    ]
    _check(materials, list(arms.values()))
    _make_shared(materials, list(arms.values()), session)
    workers = min(workers, sum(not (job.evaluation / "masks.json").exists() for job in jobs))
    if workers <= 1:
        for job in jobs:
            session.progress.say(f"segmenter {job.name}, seed {job.repeat}")
            finished(job, job())
    else:
        session.progress.start("segmenters", len(jobs))
        pool = _pool(workers)
        try:
            for job, seconds in _side_by_side(jobs, pool):
                session.progress.advance()
                finished(job, seconds)
        finally:
            pool.shutdown(cancel_futures=True)  # after a failure, what has begun ends and nothing else begins
    return {name: [job.evaluation for job in jobs if job.name == name] for name in arms}


def room_for(jobs: int, device: str) -> int:
    """Return how many segmenters there is room for side by side: one on a GPU, else as cores and memory allow."""
    if stages.resolve_device(device) != "cpu":
        return 1
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not every system tells
        free = float("inf")
    return max(1, min(jobs, os.cpu_count() or 1, int(min(free / BYTES_PER_WORKER, 64))))


def _check(materials: Materials, arms: Sequence[Arm]) -> None:
    """Refuse, before anything is computed, what cannot be done or would leak."""
    if not len(materials.cohort.split("train").labelled()):
        raise InputError(f"no training case of {materials.cohort.folder} has labels; at least a few are needed")
    if materials.plan.pseudo_labels or any(arm.teacher for arm in arms):
        materials.unlabelled  # noqa: B018  says what is missing
    if any(arm.on_target for arm in arms):
        if materials.target is None:
            raise InputError("the arms e3_1 to e3_4 are judged on a second cohort; name it with --target")
        if materials.target.label_table.to_mapping() != materials.cohort.label_table.to_mapping():
            raise InputError(
                f"{materials.target.folder} has the labels {materials.target.label_table.to_mapping()}, but "
                f"{materials.cohort.folder} has {materials.cohort.label_table.to_mapping()}; import both with one table"
            )
        check_no_overlap(materials.cohort, materials.target)


def _make_shared(materials: Materials, arms: Sequence[Arm], session: Session) -> None:
    """Make what several segmenters need, so that no two processes make it at once."""
    for arm in arms:
        if "synthetic" in arm.made:
            materials.synthetic(session)
        if "randomised" in arm.made:
            materials.randomised(session)
        if arm.pretrained:
            materials.encoder(arm, session)


def _pool(workers: int) -> Executor:
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_set_threads, initargs=(threads,))


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _side_by_side(jobs: Sequence[Job], pool: Executor) -> Iterator[tuple[Job, float]]:
    """Yield jobs as they end; one begins when what its arm requires, of the same seed, has ended."""
    waiting, running, done = list(jobs), {}, set()
    known = {(job.name, job.repeat) for job in jobs}
    while waiting or running:
        for job in list(waiting):
            needed = (job.arm.requires, job.repeat)
            if needed in done or needed not in known:
                waiting.remove(job)
                silent = replace(job, session=replace(job.session, progress=SILENT))
                running[pool.submit(silent)] = job
        for future in _any_of(running):
            job = running.pop(future)
            done.add((job.name, job.repeat))
            yield job, future.result()


def _any_of(futures: Mapping[Future, Job]) -> set[Future]:
    return wait(futures, return_when=FIRST_COMPLETED).done
