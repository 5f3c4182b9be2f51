"""Predictions beside their references: a cohort of each in, ``masks.csv`` and ``masks.json`` out.

The columns of ``masks.csv`` are defined in ``agreement``, the means of ``masks.json`` in ``summary``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from voxpair.core.errors import InputError
from voxpair.core.run import SILENT, Progress, make_folder
from voxpair.evaluation.masks import NSD_TOLERANCE_MM
from voxpair.evaluation.masks.agreement import Row, compare_case, write_rows
from voxpair.evaluation.masks.summary import Summary, summarise

if TYPE_CHECKING:
    from voxpair.cohorts.cohort import Cohort


def evaluate_masks(
    predictions: Cohort,
    reference: Cohort,
    out: Path,
    *,
    tolerance_mm: float = NSD_TOLERANCE_MM,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Summary:
    """Compare predictions with the labelled cases of ``reference`` by name; write the two files.

    A reference case without a prediction counts as a prediction that is empty, and is named in the summary; so is a
    prediction without a reference case, which counts for nothing.

    Args:
        predictions, reference: cohorts with the same label table.
        out: folder for the two files; made if need be.
        tolerance_mm: see :func:`voxpair.evaluation.masks.agreement.agreement`.
        seed: of the bootstrap.

    Raises:
        InputError: no labelled reference case, other label tables, or a prediction on another grid.
    """
    wanted = reference.labelled()
    if not wanted.records:
        raise InputError("the reference cohort has no labelled case, so there is nothing to compare with")
    ours, theirs = predictions.label_table.to_mapping(), reference.label_table.to_mapping()
    if ours != theirs:
        raise InputError(f"the predictions have the labels {ours}, the reference {theirs}; give both the same table")
    predicted_names = {record.name for record in predictions.labelled().records}
    missing = [record.name for record in wanted.records if record.name not in predicted_names]
    extra = sorted(predicted_names - {record.name for record in reference.records})

    rows: list[Row] = []
    progress.start("evaluate masks", total=len(wanted.records))
    for record in wanted.records:
        predicted = predictions.read_labels(record.name) if record.name in predicted_names else None
        rows += compare_case(predicted, wanted.read_labels(record.name), tolerance_mm)
        progress.advance()
    summary = summarise([rows], tolerance_mm=tolerance_mm, missing=missing, extra=extra, seed=seed)
    write_rows(make_folder(Path(out)) / "masks.csv", rows)
    summary.write(Path(out) / "masks.json")
    _say(missing, extra, progress)
    return summary


def _say(missing: Sequence[str], extra: Sequence[str], progress: Progress) -> None:
    if missing:
        progress.say(f"no prediction for {len(missing)} cases, each counted as missed: {', '.join(missing)}")
    if extra:
        progress.say(
            f"predictions of {len(extra)} cases that the reference does not have, left out: {', '.join(extra)}"
        )
