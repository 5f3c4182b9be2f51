"""A study on one cohort, as ``voxpair study`` does it, with its provenance; writes ``benchmarks/study/NAME.json``.

    python benchmarks/study.py hippocampus-16 SCANS --work RUNS --preset hippocampus --labelled 16 \
        --arms baseline_equal_updates,self_training,ours_real_last --seeds 3 --set pseudo_labels=true

Calling it again goes on where it stopped; a partial table is written as it stands. SCANS is a folder in any layout that
``voxpair import`` takes, or a cohort.
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

import torch

import voxpair
from voxpair.console import ConsoleProgress
from voxpair.core.run import read_json, versions, write_json

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the result, benchmarks/study/NAME.json")
    parser.add_argument("source", type=Path, help="folder of scans, or a cohort")
    parser.add_argument("--work", type=Path, required=True, help="folder for runs; they resume")
    parser.add_argument("--preset", default="hippocampus")
    parser.add_argument("--generator", default="joint_ldm")
    parser.add_argument("--arms", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--labelled", type=int, nargs="*", default=[])
    parser.add_argument("--unlabelled", type=int, nargs="*", default=[])
    parser.add_argument("--target", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="assignments", metavar="KEY=VALUE")
    given = parser.parse_args()
    plan = voxpair.plan(given.preset, None, given.assignments, generator=given.generator)
    folder = given.work / given.name
    with ConsoleProgress() as progress:
        session = voxpair.Session(seed=0, progress=progress)
        cohort = given.source
        if not (cohort / "cases.csv").exists():
            cohort = given.work / "cohort"
            voxpair.import_scans(voxpair.Scans(given.source), cohort, session)
        try:
            voxpair.run_study(
                cohort,
                folder,
                plan,
                session,
                arms=given.arms.split(","),
                seeds=given.seeds,
                sweep=voxpair.Sweep(labelled=given.labelled, unlabelled=given.unlabelled),
                target=given.target,
                workers=given.workers,
            )
        finally:
            if (folder / "study.json").exists():
                collect(given, plan, folder)


def collect(given: argparse.Namespace, plan: voxpair.Plan, folder: Path) -> None:
    result = {
        "command": f"python benchmarks/study.py {shlex.join(words(given))}",
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "threads": torch.get_num_threads()},
        "versions": versions(),
        **read_json(folder / "study.json"),
        "reconstruction": {
            str(path.parents[2].relative_to(folder)): read_json(path)["dice"]
            for path in sorted(folder.rglob("generator/autoencoder/reconstruction.json"))
        },
        "settings": json.loads(plan.model_dump_json()),
    }
    path = HERE / "study" / f"{given.name}.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, result)
    print(path)


def words(given: argparse.Namespace) -> list[str]:
    """Return the command as typed, without this machine's paths."""
    typed = [given.name, "SCANS", "--work", "RUNS", "--preset", given.preset, "--generator", given.generator]
    typed += ["--arms", given.arms, "--seeds", str(given.seeds)]
    for option in ("labelled", "unlabelled"):
        if numbers := getattr(given, option):
            typed += [f"--{option}", *map(str, numbers)]
    if given.target:
        typed += ["--target", "TARGET"]
    return typed + [word for text in given.assignments for word in ("--set", text)]


if __name__ == "__main__":
    sys.exit(main())
