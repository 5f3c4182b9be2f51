"""Does one change to the segmenter help? Judged on training cases that are put aside, never on the held-out ones.

    python benchmarks/hypotheses/segmenter.py rarity-phantoms COHORT --preset demo --labelled 16 --aside 8 \
        --variant rarity=0 --variant rarity=0.5 --seeds 3 --work RUNS

The first variant is the reference; all begin alike and get the same number of updates, on real cases alone. Writes
``benchmarks/hypotheses/NAME.json``; calling it again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

import voxpair
from voxpair.cohorts.cohort import Cohort
from voxpair.console import ConsoleProgress
from voxpair.core.run import read_json, versions, write_json
from voxpair.core.settings import override
from voxpair.evaluation.masks.comparison import compare_protocols

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("cohort", type=Path, help="split already")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--labelled", type=int, required=True, help="training cases")
    parser.add_argument("--aside", type=int, required=True, help="last training cases, which are judged")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variant", action="append", required=True, metavar="KEY=VALUE[,KEY=VALUE]")
    parser.add_argument("--set", action="append", default=[], dest="assignments", metavar="KEY=VALUE")
    given = parser.parse_args()
    cohort = part(voxpair.Cohort.open(given.cohort), given.labelled, given.aside)
    base = override(voxpair.plan(given.preset).segmentation, given.assignments)
    evaluated: dict[str, list[Path]] = {variant: [] for variant in given.variant}
    with ConsoleProgress() as progress:
        for seed in range(given.seeds):
            for variant in given.variant:
                folder = given.work / given.name / variant / f"seed{seed}"
                session = voxpair.Session(seed=seed, progress=progress, cache=given.work / "prepared")
                settings = override(base, variant.split(","))
                segmenter = voxpair.segment_fit([cohort], folder / "segmenter", settings, session)
                predicted = voxpair.segment_predict(segmenter, cohort, folder / "predictions", session, split="test")
                voxpair.evaluate_masks(predicted, cohort, folder / "evaluation", session)
                evaluated[variant].append(folder / "evaluation")
            collect(given, evaluated)


def part(cohort: Cohort, labelled: int, aside: int) -> Cohort:
    """Return a view of the training split: the first cases train, the last ones are judged, the others are left out."""
    train = cohort.split("train").labelled().records
    if labelled + aside > len(train):
        sys.exit(f"{labelled} + {aside} cases asked for, but the training split has {len(train)} with labels")
    judged = (replace(record, split="test") for record in train[-aside:])
    return replace(cohort, records=(*train[:labelled], *judged))


def collect(given: argparse.Namespace, evaluated: dict[str, list[Path]]) -> None:
    reference, *others = evaluated
    comparison = compare_protocols(
        evaluated, [(name, reference) for name in others], given.work / given.name / "comparison.json"
    )
    words = [given.name, "COHORT", "--work", "RUNS", "--preset", given.preset, "--labelled", str(given.labelled)]
    words += ["--aside", str(given.aside), "--seeds", str(given.seeds)]
    words += [word for name in given.variant for word in ("--variant", name)]
    words += [word for text in given.assignments for word in ("--set", text)]
    summaries = {name: [read_json(folder / "masks.json") for folder in folders] for name, folders in evaluated.items()}
    result = {
        "command": f"python benchmarks/hypotheses/segmenter.py {shlex.join(words)}",
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "threads": torch.get_num_threads()},
        "versions": versions(),
        "judged": f"the last {given.aside} training cases, put aside",
        "dice": {
            name: [
                {"mean": s["dice"]["mean"]} | {key: value["dice"]["mean"] for key, value in s["structures"].items()}
                for s in seeds
            ]
            for name, seeds in summaries.items()
        },
        "comparisons": comparison["comparisons"],
    }
    write_json(HERE / f"{given.name}.json", result)
    print(HERE / f"{given.name}.json")


if __name__ == "__main__":
    main()
