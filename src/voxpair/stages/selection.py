"""Keep the synthetic pairs that stated rules accept, and say why the others were rejected.

OUT/judgements.jsonl    a line per draw: what was measured, and the reasons against it; a quest resumes from it
OUT/selection.json      drawn, accepted, rate, rejections by rule, the rejected with their reasons
OUT/rejected.npz        the first rejected pairs, a few, for pictures
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from voxpair import previews
from voxpair.cohorts import journal
from voxpair.cohorts.cohort import Cohort, CohortWriter
from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.run import RunFolder, read_json, read_log, write_json, write_text
from voxpair.evaluation.selection.selector import RULE_NAMES, SelectionSettings
from voxpair.stages.claims import Session, opened, resolve_device, stage_facts
from voxpair.stages.results import real_only_segmenter, seen_and_held_out

if TYPE_CHECKING:
    from voxpair.evaluation.selection.selector import Judgement
    from voxpair.segmentation.segmenter import Segmenter

PICTURES = 4


@dataclass(frozen=True)
class Selection:
    """By what a synthetic pair is judged.

    Args:
        real: cohort with a split; the rules learn from its annotated training cases.
        settings: which rules, and how strict.
        segmenter: run folder of a segmenter fitted on real cases alone, for rule "agreement".
        attempts: draws in all before giving up; 10 times as many as are wanted by default.
    """

    real: Path | Cohort
    settings: SelectionSettings = field(default_factory=SelectionSettings)
    segmenter: Path | None = None
    attempts: int | None = None

    def describe(self) -> dict[str, Any]:
        """Return what decides who is accepted, for the claim of the folder."""
        return {
            "real": opened(self.real).digest(),
            "segmenter": str(self.segmenter or ""),
            **self.settings.model_dump(mode="json"),
        }


def make_selection(
    run: Path, real: Path | None, segmenter: Path | None, rules: Sequence[str] | None, attempts: int | None
) -> Selection:
    """Return how pairs of the generator in ``run`` are judged; what is not given follows from what is.

    Args:
        real: where the rules learn; by default the cohort that the generator was fitted on.
        rules: their names; by default all that can be applied ("agreement" needs a segmenter, and the copy detector
            needs held-out cases).

    Raises:
        InputError: the generator's cohort is no longer there or has changed; an unknown rule.
    """
    from voxpair.evaluation.audit.copy_detector import DetectorSettings

    facts = stage_facts(run, "generator")
    if real is None:
        real = Path(read_json(run / "done.json").get("cohort", ""))
        if not (real / "dataset.json").exists() or Cohort.open(real).digest() != facts["inputs"]["cohort"]:
            raise InputError(
                f"the cohort that {run} was fitted on is not at {real} as it was then; name one with --real"
            )
    _, held_out = seen_and_held_out(Cohort.open(real))
    can = {"agreement": segmenter is not None, "copy": len(held_out) >= DetectorSettings().smallest_reference}
    names = rules or [rule for rule in RULE_NAMES if can.get(rule, True)]
    try:
        settings = SelectionSettings(rules=tuple(names))
    except ValidationError:
        raise InputError(f"--rules: expected some of {', '.join(RULE_NAMES)}; got {', '.join(names)}") from None
    return Selection(real, settings, segmenter, attempts)


def add_accepted(
    writer: CohortWriter, draw: Callable[[int], Case], count: int, selection: Selection, session: Session
) -> None:
    """Draw case after case and add those that are accepted to ``writer``, until it holds ``count``."""
    from voxpair.evaluation.selection.quest import draw_until, summary
    from voxpair.evaluation.selection.selector import Judgement

    judge = _judge(selection, writer.folder / "copy_detector", session)
    path = writer.folder / "judgements.jsonl"
    judgements = [Judgement(**record) for record in read_log(path)] if path.exists() else []
    write_text(path, "".join(json.dumps(asdict(judgement)) + "\n" for judgement in judgements))  # whole lines only
    pictured = any(not judgement.accepted for judgement in judgements)  # by an earlier call
    rejected: list[Case] = []
    try:
        quest = draw_until(draw, judge, count, attempts_limit=selection.attempts, earlier=judgements)
        for index, case, judgement in quest:
            if judgement.accepted and not writer.has(case.name):
                numbers = {"selection": dict(judgement.numbers)}
                writer.add(replace(case, provenance={**case.provenance, **numbers}))
            journal.append(path, json.dumps(asdict(judgement)))
            judgements.append(judgement)
            if judgement.accepted:
                session.progress.advance()
            elif not pictured and len(rejected) < PICTURES:
                rejected.append(replace(case, name=f"draw_{index}"))
    finally:
        write_json(writer.folder / "selection.json", summary(judgements))
        if rejected:
            previews.write_cases(writer.folder / "rejected.npz", rejected, writer.modality)
    found = summary(judgements)
    session.progress.say(f"  {found['accepted']} of {found['drawn']} draws accepted ({found['rate']:.0%})")


def _judge(selection: Selection, detector_folder: Path, session: Session) -> Callable[[Case], Judgement]:
    """Learn the rules from the real training cases; return what judges a synthetic case."""
    from voxpair.evaluation.audit.copy_detector import CopyDetector, DetectorSettings
    from voxpair.evaluation.selection.selector import Match, Selector, mean_dice

    real = opened(selection.real)
    training = real.split("train").labelled()
    rules = selection.settings.rules
    segmenter: Segmenter | None = None
    agreement: Sequence[float] = ()
    if "agreement" in rules:
        if selection.segmenter is None:
            raise InputError("rule 'agreement' needs a segmenter fitted on real cases alone; name one with --segmenter")
        segmenter = real_only_segmenter(selection.segmenter, session)
        unseen = [record.name for record in real.labelled().records if record.split in ("val", "test")]
        agreement = [mean_dice(segmenter.predict(case).labels, case.labels) for case in real.subset(unseen)]
    selector = Selector.fit(training, selection.settings, modality=real.modality, agreement_real=agreement)
    for rule in selector.left_out:
        session.progress.say(f"  left out, since real cases break it themselves: {rule}")

    detector: CopyDetector | None = None
    if "copy" in rules:
        place = RunFolder(detector_folder, session.seed, resolve_device(session.device), session.progress)
        detector = CopyDetector.fit(*seen_and_held_out(real), DetectorSettings(), place)

    def judge(case: Case) -> Judgement:
        predicted = segmenter.predict(case).labels if segmenter else None
        found = detector.match(case) if detector else None
        return selector.judge(case, predicted, Match(found.nearest, found.score, found.threshold) if found else None)

    return judge
