"""Baseline, Medical Diffusion and Ours on one cohort with several numbers of labelled cases; writes one JSON a number.

    python benchmarks/protocols.py hippocampus SCANS --work RUNS --labelled 16 48 168 --seeds 3
    python benchmarks/protocols.py phantom - --work RUNS --preset demo --seeds 3
    python benchmarks/protocols.py phantom - --work RUNS --preset demo --generator medgen3d --seeds 3

Every number is one ``voxpair run`` (or ``demo``) with the generator fitted on those labelled cases alone
(``cases.unlabelled=0``); all protocols get equal numbers of updates and the same held-out cases. Calling it again goes
on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import voxpair
from voxpair.console import ConsoleProgress
from voxpair.core.run import read_json, versions, write_json

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="folder under benchmarks/ for the results")
    parser.add_argument("source", help="folder of scans, or - for phantom hearts")
    parser.add_argument("--work", type=Path, required=True, help="folder for runs; they resume")
    parser.add_argument("--preset", default="hippocampus")
    parser.add_argument("--generator", default="joint_ldm")
    parser.add_argument("--labelled", type=int, nargs="*", help="numbers of labelled training cases; all by default")
    parser.add_argument("--seeds", type=int, default=3, help="segmenters per protocol")
    parser.add_argument("--set", action="append", default=[], dest="assignments", metavar="KEY=VALUE")
    given = parser.parse_args()

    with ConsoleProgress() as progress:
        session = voxpair.Session(seed=0, progress=progress)
        for count in given.labelled or [None]:
            run(given, count, session)


def run(given: argparse.Namespace, labelled: int | None, session: voxpair.Session) -> None:
    assignments = [*given.assignments, f"seeds={given.seeds}"]
    if labelled is not None:
        assignments += [f"cases.labelled={labelled}", "cases.unlabelled=0"]
    plan = voxpair.plan(given.preset, None, assignments, generator=given.generator)
    words = [f"labelled-{labelled}" if labelled else "all"]
    words += [given.generator] if given.generator != "joint_ldm" else []
    words += ["paper"] if given.preset.endswith("-paper") else []
    folder = given.work / "-".join(words)
    if given.source == "-":
        voxpair.demo(folder, plan, session)
    else:
        cohort = given.work / "cohort"
        voxpair.import_scans(voxpair.Scans(Path(given.source)), cohort, session)
        if set(voxpair.Cohort.open(cohort).split_counts) == {""}:
            voxpair.split(cohort, (plan.cases.train, plan.cases.val, plan.cases.test), session)
        voxpair.run(voxpair.Scans(cohort), folder, lambda _: plan, session)
    result = HERE / given.name / f"{folder.name}.json"
    write_json(result, collect(folder, plan, assignments, given))
    print(result)


def collect(folder: Path, plan: voxpair.Plan, assignments: list[str], given: argparse.Namespace) -> dict[str, Any]:
    """Return everything that the tables of docs/results.md are made of."""
    protocols = {}
    for name in plan.protocols:
        places = [folder / "evaluation" / name / ("" if k == 0 else f"seed{k}") for k in range(plan.seeds)]
        summaries = [read_json(place / "masks.json") for place in places]
        protocols[name] = {
            "mean_dice_by_seed": [summary["dice"]["mean"] for summary in summaries],
            "by_structure": {
                structure: {
                    metric: [summary["structures"][structure][metric]["mean"] for summary in summaries]
                    for metric in ("dice", "hd95_mm", "assd_mm", "nsd")
                }
                for structure in summaries[0]["structures"]
            },
        }
    facts, reconstruction = read_json(folder / "summary.json"), folder / "generator/autoencoder/reconstruction.json"
    words = ["python", f"benchmarks/{Path(__file__).name}", given.name, "SCANS" if given.source != "-" else "-"]
    words += ["--work", "RUNS", "--preset", given.preset, "--generator", given.generator]
    words += ["--seeds", str(given.seeds)]
    words += [word for text in given.assignments for word in ("--set", text)]
    return {
        "command": shlex.join(words) + (f" --labelled {plan.cases.labelled}" if plan.cases.labelled else ""),
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "threads": torch.get_num_threads()},
        "versions": versions(),
        "seeds": list(range(plan.seeds)),
        "held_out": {
            "split": facts["held_out"],
            "cases": read_json(folder / "evaluation/baseline/masks.json")["cases"],
        },
        "labelled": facts["cohort"]["splits"]["train"],
        "synthetic": facts["synthetic"],
        "generator": plan.uses,
        "updates": {
            **{name: loop.updates for name, step in plan.generator if (loop := loop_of(step))},
            "pretraining": plan.pretraining.loop.updates,
            "segmenter": plan.segmentation.loop.updates,
        },
        "protocols": protocols,
        "comparisons": read_json(folder / "evaluation/comparison.json")["comparisons"],
        "reconstruction": read_json(reconstruction) if reconstruction.exists() else None,
        "settings": json.loads(plan.model_dump_json()),
    }


def loop_of(step: Any) -> Any:
    """Return the loop of a generator's step, None where ``step`` is no step; a refiner has it in its diffusion."""
    return getattr(step, "loop", None) or getattr(getattr(step, "diffusion", None), "loop", None)


if __name__ == "__main__":
    sys.exit(main())
