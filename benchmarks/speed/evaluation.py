"""Wall time and peak memory of ``evaluate masks``, ``evaluate pairs`` and ``audit`` at the sizes users have.

    python benchmarks/speed/evaluation.py masks --work RUNS
    python benchmarks/speed/evaluation.py pairs --work RUNS
    python benchmarks/speed/evaluation.py audit --work RUNS

masks: 100 cases of 256 x 256 x 160 with eight structures, moved copies of one phantom heart (its images are left blank:
nobody reads them) against the same, moved by two voxels more. pairs and audit: 200 against 200 phantom hearts of
64 x 64 x 64. Seconds are of the machine named in the file and of nothing else.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import voxpair
from voxpair.core.case import Case
from voxpair.core.run import versions, write_json
from voxpair.phantom.heart_cohort import PhantomSettings, heart_cases

HERE = Path(__file__).parent
LARGE = (256, 256, 160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["masks", "pairs", "audit"])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--masks", type=int, default=100, help="cases for masks")
    parser.add_argument("--pairs", type=int, default=200, help="cases a side for pairs and audit")
    given = parser.parse_args()
    command = {
        "masks": lambda: masks(given.work / "masks", given.masks),
        "pairs": lambda: ["evaluate", "pairs", *hearts(given.work / "hearts", given.pairs)],
        "audit": lambda: ["audit", *hearts(given.work / "hearts", given.pairs)],
    }[given.what]()
    out = given.work / f"speed-{given.what}"
    start = time.monotonic()
    subprocess.run([Path(sys.executable).with_name("voxpair"), *command, "-o", out, "--overwrite"], check=True)
    seconds = time.monotonic() - start
    cases = given.masks if given.what == "masks" else given.pairs
    result = {
        "command": f"python benchmarks/speed/evaluation.py {given.what}",
        "cases": cases,
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "versions": versions(),
        "wall_seconds": round(seconds, 1),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2),
    }
    write_json(HERE / f"evaluate_{given.what}.json", result)
    print(HERE / f"evaluate_{given.what}.json")


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


if __name__ == "__main__":
    main()
