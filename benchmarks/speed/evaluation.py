"""Wall time and peak memory of ``evaluate masks``, ``evaluate pairs`` and ``audit`` at the sizes users have.

    python benchmarks/speed/evaluation.py masks --work RUNS
    python benchmarks/speed/evaluation.py pairs --work RUNS
    python benchmarks/speed/evaluation.py audit --work RUNS

masks: 100 cases of 256 x 256 x 160 with eight structures, moved copies of one phantom heart (its images are left blank:
nobody reads them) against the same, moved by two voxels more. pairs and audit: 200 against 200 phantom hearts of
64 x 64 x 64; the segmenter that judges pairs is fitted before the clock starts, the audit's encoder is part of it.
Seconds are of the machine named in the file and of nothing else.

Gives ``evaluate_WHAT.json`` beside this script; with another ``--cases`` it goes into RUNS, so that a trial replaces no
result; the full run names the peaks of the trials beside its own, which show whether memory grows with the number of
cases. An audit needs 20 at least.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import voxpair
from voxpair.core.case import Case
from voxpair.core.run import read_json, versions, write_json
from voxpair.phantom.heart_cohort import PhantomSettings, heart_cases
from voxpair.presets import part

HERE = Path(__file__).parent
LARGE = (256, 256, 160)
CASES = {"masks": 100, "pairs": 200, "audit": 200}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["masks", "pairs", "audit"])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cases", type=int, help="a side; by default as above")
    given = parser.parse_args()
    cases = given.cases or CASES[given.what]
    folder = given.work / str(cases)
    command = {
        "masks": lambda: masks(folder / "masks", cases),
        "pairs": lambda: ["evaluate", "pairs", *hearts(folder / "hearts", cases), *judge(folder / "hearts")],
        "audit": lambda: ["audit", *hearts(folder / "hearts", cases)],
    }[given.what]()
    words = [sys.executable, "-m", "voxpair", *command, "-o", folder / f"speed-{given.what}", "--overwrite"]
    start = time.monotonic()
    process = subprocess.Popen(words)
    _, status, used = os.wait4(process.pid, 0)  # of the command alone, not of what made its cohorts
    seconds = time.monotonic() - start
    if status:
        sys.exit(f"the command failed: {' '.join(map(str, words))}")
    result = {
        "command": f"python benchmarks/speed/evaluation.py {given.what} --work RUNS",
        "cases": cases,
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "versions": versions(),
        "wall_seconds": round(seconds, 1),
        "peak_memory_gib": round(used.ru_maxrss / 2**20, 2),
    }
    trials = (read_json(path) for path in given.work.glob(f"*/evaluate_{given.what}.json"))
    result["peak_memory_gib_by_cases"] = {one["cases"]: one["peak_memory_gib"] for one in (*trials, result)}
    path = (HERE if cases == CASES[given.what] else folder) / f"evaluate_{given.what}.json"
    write_json(path, result)
    print(path)


def masks(work: Path, count: int) -> list[str | Path]:
    """Write the two cohorts of label maps and return the words of the command."""
    folders = [work / "predictions", work / "reference"]
    if not (folders[-1] / "dataset.json").exists():
        heart = next(iter(heart_cases(PhantomSettings(grid=LARGE), 1, 0)))
        random = np.random.default_rng(0)
        shifts = random.integers(-12, 13, (count, 3))
        for folder, further in zip(folders, (2, 0)):
            writer = voxpair.CohortWriter(folder, heart.label_table, "CT")
            for i, shift in enumerate(shifts):
                labels = np.roll(heart.labels, shift + further, (0, 1, 2))
                blank = np.zeros(LARGE, np.float32)
                writer.add(Case(f"heart_{i:03d}", blank, labels, heart.affine, heart.label_table, f"p{i}", "phantom"))
            writer.finish()
    return ["evaluate", "masks", *folders]


def hearts(work: Path, count: int) -> list[Path]:
    """Write ``count`` real phantom hearts, split, and ``count`` that pass for synthetic; return synthetic and real."""
    real, made = work / "real", work / "synthetic"
    if not (made / "dataset.json").exists():
        settings = PhantomSettings(grid=(64, 64, 64))
        voxpair.make_phantoms(real, count, settings, voxpair.Session(seed=0), workers=2)
        voxpair.split(real, (0.6, 0.2, 0.2), voxpair.Session())
        writer = None
        for i, case in enumerate(heart_cases(settings, count, 1, workers=2)):
            writer = writer or voxpair.CohortWriter(made, case.label_table, "CT")
            writer.add(replace(case, name=f"synthetic_{i:04d}", patient=f"synthetic_{i:04d}", source="synthetic"))
        patients = list(voxpair.Cohort.open(real).split("train").patients)
        writer.finish({"training_patients": patients})
    return [made, real]


def judge(work: Path) -> list[str | Path]:
    """Fit a small segmenter on the real training hearts, and return the words that name it."""
    settings = part("demo", "segmentation", assignments=["loop.updates=60"])
    voxpair.segment_fit([voxpair.Cohort.open(work / "real")], work / "judge", settings, voxpair.Session())
    return ["--segmenter", work / "judge"]


if __name__ == "__main__":
    main()
