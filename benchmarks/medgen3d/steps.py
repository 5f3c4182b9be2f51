"""What few steps cost and lose: label volumes of one fit, drawn by each sampler with the same seeds; one JSON.

    python benchmarks/medgen3d/steps.py NAME --work RUNS --preset demo --hearts 24 --count 4

The mask sequence alone is fitted, on phantom hearts; calling it again takes the fit from RUNS. Of every sampler

    seconds        processor time per volume, one thread; not wall time, so that neighbours on the machine do not count
    empty          volumes without any label
    shares         per structure: its share of the drawn voxels over its share of the real ones
    third_class    voxels on the border of two structures that were decoded to a third, a share of all boundary voxels
    jump, seam     of ``generators.medgen3d.seams``: largest step between slices, and change where windows meet
    ratios         of the samplers' seconds and shares, to those of the last, the paper's 1000 steps

For the fit: ``--set mask_sequence.key=value``; the paper's label code is ``--set mask_sequence.label_code=scalar --set
mask_sequence.prediction=epsilon``. ``benchmarks/medgen3d/steps-NAME.json`` names the command.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import voxpair
from voxpair import stages
from voxpair.cohorts.cohort import Cohort
from voxpair.cohorts.datasets import PreparedCohort
from voxpair.cohorts.preprocess import Preprocessor
from voxpair.console import ConsoleProgress
from voxpair.core.case import Case
from voxpair.core.labels import LabelTable
from voxpair.core.run import RunFolder, versions, write_json
from voxpair.core.settings import Settings, override
from voxpair.evaluation.anatomy.facts import describe
from voxpair.generators.medgen3d.mask_sequence import MaskSampling, MaskSequence, fit_mask_sequence
from voxpair.generators.medgen3d.seams import jump, seam

HERE = Path(__file__).parent
SAMPLERS = {
    "dpm_solver 10": MaskSampling(steps=10),
    "dpm_solver 10, first window anywhere": MaskSampling(steps=10, first_window="random"),
    "dpm_solver 20": MaskSampling(steps=20),
    "ddpm 1000": MaskSampling(sampler="ddpm", steps=1000),
}


def main() -> None:
    given = arguments()
    torch.set_num_threads(1)
    plan = voxpair.plan(given.preset, generator="medgen3d")
    settings = override(plan.generator, given.assignments)
    with ConsoleProgress() as progress:
        session = stages.Session(progress=progress, cache=given.work / "prepared")
        hearts = stages.make_phantoms(given.work / "hearts", given.hearts, plan.phantom, session)
        training = prepare(hearts, settings, session)
        model = fit_mask_sequence(training, settings.mask_sequence, RunFolder(given.work / "fit", progress=progress))
    real = [np.asarray(case.labels) for case in training]
    samplers = {}
    for name, sampling in SAMPLERS.items():
        samplers[name] = measure(model, sampling, real, given.count, training.label_table)
        print(name, samplers[name], flush=True)
    reference = samplers["ddpm 1000"]
    result = {
        "command": f"python benchmarks/medgen3d/steps.py {shlex.join(words(given))}",
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "threads": torch.get_num_threads()},
        "versions": versions(),
        "seeds": {"fit": 0, "drawn": list(range(given.count))},
        "real": {"cases": len(real), "third_class": third_class(real, training.label_table)},
        "samplers": samplers,
        "ratios": {
            name: {
                "seconds": round(reference["seconds"] / found["seconds"], 1),
                "shares": {key: ratio(found["shares"][key], reference["shares"][key]) for key in found["shares"]},
            }
            for name, found in samplers.items()
        },
        "settings": settings.mask_sequence.model_dump(mode="json"),
    }
    write_json(HERE / f"steps-{given.name}.json", result)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the result, benchmarks/medgen3d/steps-NAME.json")
    parser.add_argument("--work", type=Path, required=True, help="folder for the hearts and the fit, which resume")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--hearts", type=int, default=24)
    parser.add_argument("--count", type=int, default=4, help="volumes drawn with each sampler")
    parser.add_argument("--set", action="append", default=[], dest="assignments", metavar="KEY=VALUE")
    return parser.parse_args()


def words(given: argparse.Namespace) -> list[str]:
    """Return the command as typed, without this machine's paths."""
    typed = [given.name, "--work", "RUNS", "--preset", given.preset]
    typed += ["--hearts", str(given.hearts), "--count", str(given.count)]
    return typed + [word for text in given.assignments for word in ("--set", text)]


def prepare(hearts: Cohort, settings: Settings, session: stages.Session) -> PreparedCohort:
    preprocessor = Preprocessor(settings.preprocess, hearts.label_table, hearts.modality)
    return PreparedCohort.build(hearts, preprocessor, session.cache, session.progress)


def measure(
    model: MaskSequence, sampling: MaskSampling, real: list[np.ndarray], count: int, table: LabelTable
) -> dict[str, Any]:
    """Draw volumes 0 to ``count - 1`` and return what the head of this file lists."""
    shape = real[0].shape
    began = time.process_time()
    drawn = [model.sample(shape, seed, sampling) for seed in range(count)]
    seconds = (time.process_time() - began) / count
    plans = [model.windows(shape[2], seed, sampling) for seed in range(count)]
    shares = {
        name: ratio(np.mean([volume == index for volume in drawn]), np.mean([volume == index for volume in real]))
        for index, name in enumerate(table.names, 1)
    }
    return {
        "seconds": round(seconds, 3),
        "empty": sum(not volume.any() for volume in drawn),
        "shares": shares,
        "third_class": third_class(drawn, table),
        "jump": round(jump(drawn, real), 3),
        "seam": round(seam(drawn, plans, real), 3),
    }


def third_class(volumes: Sequence[np.ndarray], table: LabelTable) -> float:
    """Return the mean rate over volumes of class indices that have a boundary."""
    values = np.array((0, *table.values), np.uint8)
    cases = (Case("", volume.astype(np.float32), values[volume], np.eye(4), table, "") for volume in volumes)
    rates = [describe(case).third_class_rate() for case in cases]
    return round(float(np.mean([rate for rate in rates if rate is not None])), 5)


def ratio(found: float | None, reference: float | None) -> float | None:
    """Return the ratio; None where there is nothing to compare with."""
    return round(float(found / reference), 3) if reference else None


if __name__ == "__main__":
    sys.exit(main())
