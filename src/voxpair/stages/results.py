"""Stages that turn cohorts into numbers, and numbers into a page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from voxpair.cohorts.cohort import Cohort
from voxpair.core.run import make_folder
from voxpair.stages.claims import Session, opened

if TYPE_CHECKING:
    from voxpair.evaluation.agreement import Summary


def evaluate_masks(
    predictions: Path | Cohort, reference: Path | Cohort, output: Path, session: Session, *, tolerance_mm: float = 1.0
) -> Summary:
    """Compare predicted with reference labels: ``masks.csv`` and ``masks.json`` in ``output``.

    Of a reference that is split, only the cases of the splits that the predictions come from are expected.
    """
    from voxpair.evaluation.agreement import evaluate_masks as evaluate

    predicted, reference = opened(predictions), opened(reference).labelled()
    wanted = {record.split for record in predicted.records}
    if None not in wanted:
        reference = replace(reference, records=tuple(r for r in reference.records if r.split in wanted))
    make_folder(output)
    return evaluate(predicted, reference, output, tolerance_mm=tolerance_mm, progress=session.progress)


def write_report(run: Path) -> Path:
    """Write ``report.html`` about the run folder ``run`` and return its path."""
    from voxpair.report import page

    return page.write_report(run)
