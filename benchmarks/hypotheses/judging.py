"""What the scripts of this folder share: one segmenter, judged on cases it has not seen, and a table of several."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import voxpair
from voxpair.core.run import read_json, versions
from voxpair.evaluation.masks.comparison import compare_protocols
from voxpair.segmentation.segmenter import SegmenterSettings


def judged(
    cohorts: Sequence[voxpair.Cohort],
    settings: SegmenterSettings,
    folder: Path,
    session: voxpair.Session,
    split: str = "test",
) -> Path:
    """Fit a segmenter on cohorts, the first of them real; return its evaluation on a split of that one. It resumes."""
    real = cohorts[0]
    segmenter = voxpair.segment_fit(cohorts, folder / "segmenter", settings, session)
    predicted = voxpair.segment_predict(segmenter, real, folder / "predictions", session, split=split)
    voxpair.evaluate_masks(predicted, real, folder / "evaluation", session)
    return folder / "evaluation"


def provenance(command: str) -> dict[str, Any]:
    """Return the command, the commit of this checkout, the machine and the versions."""
    return {
        "command": command,
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "threads": torch.get_num_threads()},
        "versions": versions(),
    }


def table(evaluated: Mapping[str, Sequence[Path]], folder: Path) -> dict[str, Any]:
    """Return the Dice of every variant by seed and structure, and each variant against the first."""
    reference, *others = evaluated
    comparison = compare_protocols(evaluated, [(name, reference) for name in others], folder / "comparison.json")
    summaries = {name: [read_json(place / "masks.json") for place in places] for name, places in evaluated.items()}
    dice = {
        name: [
            {"mean": s["dice"]["mean"]} | {key: value["dice"]["mean"] for key, value in s["structures"].items()}
            for s in seeds
        ]
        for name, seeds in summaries.items()
    }
    return {"dice": dice, "comparisons": comparison["comparisons"]}
