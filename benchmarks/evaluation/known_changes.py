"""What does each number of ``evaluate pairs`` see? Every measure under changes that are known, made to real cases.

    python benchmarks/evaluation/known_changes.py MSD_HIPPOCAMPUS --work RUNS

Two sets: hippocampus MRI (the Decathlon's folder is the argument) and phantom hearts of 40 x 40 x 40 voxels. Of each,
``CASES`` cases are "real", as many others pass for synthetic after a change, and ``JUDGE`` more have taught a small
segmenter, which is extractor and judge as in ``voxpair evaluate pairs``. The measures are those of
``voxpair.evaluation.pairs``, put together here so that the real half is described once. Each change is kept in RUNS as
soon as it is measured, so the same call goes on where it was broken off.

Gives ``known_changes.json`` beside this script; ``table.py`` makes the tables of docs/evaluation.md from it. Measures
about a single structure are counted there, not listed.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage

import voxpair
from voxpair.cohorts.cohort import Cohort
from voxpair.console import ConsoleProgress
from voxpair.core.case import Case
from voxpair.core.run import derive_seed, make_folder, read_json, versions, write_json
from voxpair.evaluation.pairs import alignment, diversity, fidelity, plausibility, texture
from voxpair.evaluation.pairs.evaluate import Facts, Judges
from voxpair.evaluation.pairs.measures import Measure
from voxpair.evaluation.pairs.noise import find_noise
from voxpair.evaluation.selection.selector import mean_dice
from voxpair.presets import part
from voxpair.segmentation.features import EncoderFeatures
from voxpair.segmentation.segmenter import Segmenter

HERE = Path(__file__).parent
CASES, JUDGE, SEED = 40, 60, 0
SWAPPED = {"hippocampus": ("Anterior", "Posterior"), "hearts": ("LA", "RA")}
SETTINGS = {"hippocampus": ["loop.updates=600"], "hearts": ["loop.updates=600"]}
"""Of the segmenter, over the presets "hippocampus" and "demo"; after 120 updates hippocampi have a Dice of 0.35."""
LEAST_DICE = 0.7  # of the judge on real cases; a worse one says nothing about what ``dice`` sees
NUMBERS = ("value", "low", "high", "floor", "floor_low", "floor_high")

Change = Callable[[Sequence[Case], tuple[str, str]], list[Case]]


@dataclass(frozen=True)
class Halves:
    """The cases of one set, and who judges them."""

    real: list[Case]
    other: list[Case]
    modality: str
    judges: Judges
    judge: dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path, help="folder of MSD Task 04, hippocampus")
    parser.add_argument("--work", type=Path, required=True, help="folder for cohorts, segmenters and finished changes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with ConsoleProgress() as progress:
        session = voxpair.Session(seed=SEED, device="cpu", progress=progress)
        sets = {name: run(name, given, session) for name in SWAPPED}
    result = {
        "command": f"python benchmarks/evaluation/{Path(__file__).name} MSD_HIPPOCAMPUS --work RUNS",
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=HERE, check=True
        ).stdout.strip(),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "threads": torch.get_num_threads()},
        "versions": versions(),
        "seed": SEED,
        "cases_a_half": CASES,
        "sets": sets,
    }
    write_json(HERE / "known_changes.json", result)
    print(HERE / "known_changes.json")


def run(name: str, given: argparse.Namespace, session: voxpair.Session) -> dict[str, Any]:
    """Measure every change of one set that is not yet measured; return what the file holds of the set."""
    folder = make_folder(given.work / name)
    halves = prepare(name, given, session)
    parts = {change: folder / f"{change}.json" for change in CHANGES}
    wanted = [change for change, path in parts.items() if not path.exists()]
    if wanted:
        there = [describe(case, halves) for case in halves.real]
        known = {id(case): describe(case, halves) for case in halves.other}
    for change in wanted:
        session.progress.start(f"{name}: {change}", CASES)
        made = []
        for case in CHANGES[change](halves.other, SWAPPED[name]):
            made.append(known.get(id(case)) or describe(case, halves))
            session.progress.advance()
        write_json(parts[change], compare(made, there))
    changes = {change: read_json(path) for change, path in parts.items()}
    first = next(iter(changes.values()))
    return {
        "judge": halves.judge,
        "swapped": SWAPPED[name],
        "measures": {
            key: {field: found[field] for field in ("group", "better", "unit")} for key, found in first.items()
        },
        "changes": {
            change: {
                key: {field: number for field, number in found.items() if field not in ("group", "better", "unit")}
                for key, found in measured.items()
            }
            for change, measured in changes.items()
        },
    }


def prepare(name: str, given: argparse.Namespace, session: voxpair.Session) -> Halves:
    """Make the cohort, share it out, and fit the judge on cases that are in neither half."""
    folder, preset = given.work / name, "hippocampus" if name == "hippocampus" else "demo"
    if name == "hippocampus":
        voxpair.import_scans(voxpair.Scans(given.scans), folder / "cohort", session)
    else:
        phantom = voxpair.plan(preset).phantom
        voxpair.make_phantoms(folder / "cohort", 2 * CASES + JUDGE, phantom, session)
    voxpair.split(folder / "cohort", (JUDGE, CASES, CASES), session)
    cohort = Cohort.open(folder / "cohort")
    settings = part(preset, "segmentation", assignments=SETTINGS[name])
    run = voxpair.segment_fit([cohort.split("train")], folder / "judge", settings, session)
    segmenter = Segmenter.load(run / "model")
    real, other = (list(cohort.split(half)) for half in ("val", "test"))
    dice = [mean_dice(segmenter.predict(case).labels, case.labels) for case in real]
    if np.mean(dice) < LEAST_DICE:
        sys.exit(
            f"{name}: the judge reaches a Dice of {np.mean(dice):.2f} on real cases; give it more updates (SETTINGS)"
        )
    return Halves(
        real=real,
        other=[replace(case, source="synthetic") for case in other],
        modality=cohort.modality,
        judges=Judges(EncoderFeatures(segmenter, "judge"), segmenter.predict),
        judge={
            "preset": preset,
            "set": SETTINGS[name],
            "training_cases": JUDGE,
            "mean_dice_on_real_half": round(float(np.mean(dice)), 4),
        },
    )


def describe(case: Case, halves: Halves) -> Facts:
    """Return what :func:`voxpair.evaluation.pairs.evaluate.evaluate_pairs` keeps of a case."""
    return Facts(
        name=case.name,
        source=case.source,
        split="",
        spacing_mm=case.spacing_mm,
        fidelity=fidelity.describe(case, halves.judges.extractor),
        thumbnail=diversity.describe(case, halves.modality),
        texture=texture.describe(case, halves.modality),
        plausibility=plausibility.describe(case),
        alignment=alignment.describe(case, halves.judges.labeller(case).labels),
        slices=None,
    )


def measure(made: Sequence[Facts], there: Sequence[Facts]) -> list[Measure]:
    """Return every measure of ``evaluate_pairs`` but LPIPS, which needs weights of others."""
    return [
        *fidelity.compare([f.fidelity for f in made], [f.fidelity for f in there], SEED),
        *diversity.compare([f.thumbnail for f in made], [f.thumbnail for f in there], SEED),
        *texture.compare([f.texture for f in made], [f.texture for f in there], SEED),
        *plausibility.compare([f.plausibility for f in made], [f.plausibility for f in there], SEED),
        *alignment.compare([f.alignment for f in made], [f.alignment for f in there], SEED),
    ]


def compare(made: Sequence[Facts], there: Sequence[Facts]) -> dict[str, dict[str, Any]]:
    """Return the measures that are not about a structure by name (and view), and counts of those that are.

    A name that exists for single structures only has ``structures``, how many of them have a value, and ``above`` and
    ``below``, how many differ from real as the report says it: the intervals do not meet.
    """
    found: dict[str, dict[str, Any]] = {}
    for one in measure(made, there):
        facts = {"group": one.group, "better": one.better, "unit": one.unit}
        if one.structure is None:
            numbers = {field: _rounded(getattr(one, field)) for field in NUMBERS}
            found[" ".join(filter(None, (one.name, one.view)))] = facts | numbers
            continue
        counted = found.setdefault(one.name, facts | {"structures": 0, "above": 0, "below": 0})
        if "structures" in counted and one.low is not None and one.floor_low is not None:
            counted["structures"] += 1
            counted["above"] += one.low > one.floor_high
            counted["below"] += one.high < one.floor_low
    return found


def _rounded(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.6g}")


def unchanged(cases: Sequence[Case], swapped: tuple[str, str]) -> list[Case]:
    return list(cases)


def blurred(sd_voxels: float) -> Change:
    """The image alone, by a Gaussian."""

    def change(cases: Sequence[Case], swapped: tuple[str, str]) -> list[Case]:
        return [replace(case, image=ndimage.gaussian_filter(case.image, sd_voxels)) for case in cases]

    return change


def noisy(tissue_sds: float) -> Change:
    """White noise; its SD is that of the noise which the case has already, in the median over its structures."""

    def change(cases: Sequence[Case], swapped: tuple[str, str]) -> list[Case]:
        found = []
        for case in cases:
            random = np.random.default_rng(derive_seed("noise", case.name, SEED))
            noises = (
                find_noise(case.image, case.labels == value, case.spacing_mm) for value in case.label_table.values
            )
            sd = tissue_sds * np.median([noise.sd for noise in noises if noise])
            found.append(replace(case, image=case.image + random.normal(0, sd, case.image.shape)))
        return found

    return change


def shifted(cases: Sequence[Case], swapped: tuple[str, str]) -> list[Case]:
    """The labels alone, one voxel along the first axis."""
    return [
        replace(case, labels=ndimage.shift(case.labels, (1, 0, 0), order=0, mode="nearest", prefilter=False))
        for case in cases
    ]


def exchanged(cases: Sequence[Case], swapped: tuple[str, str]) -> list[Case]:
    """Two structures under each other's label, in every fourth case."""

    def change(case: Case) -> Case:
        one, other = (case.label_table.value_of(name) for name in swapped)
        labels = case.labels.copy()
        labels[case.labels == one], labels[case.labels == other] = other, one
        return replace(case, labels=labels)

    return [change(case) if i % 4 == 0 else case for i, case in enumerate(cases)]


def mirrored(cases: Sequence[Case], swapped: tuple[str, str]) -> list[Case]:
    """Image and labels, left for right."""

    def change(case: Case) -> Case:
        axis = int(np.flatnonzero(nib.io_orientation(case.affine)[:, 0] == 0)[0])
        return replace(case, image=np.flip(case.image, axis), labels=np.flip(case.labels, axis))

    return [change(case) for case in cases]


def repeated(cases: Sequence[Case], swapped: tuple[str, str]) -> list[Case]:
    """A quarter of the cases, four times each."""
    return [case for case in cases[: len(cases) // 4] for _ in range(4)]


def brighter(cases: Sequence[Case], swapped: tuple[str, str]) -> list[Case]:
    """Every value times 1.1; in CT that makes air thinner and blood brighter."""
    return [replace(case, image=case.image * 1.1) for case in cases]


CHANGES: Mapping[str, Change] = {
    "unchanged": unchanged,
    "blur 0.7": blurred(0.7),
    "blur 1.5": blurred(1.5),
    "noise 0.5": noisy(0.5),
    "noise 1": noisy(1.0),
    "labels shifted": shifted,
    "classes swapped": exchanged,
    "mirrored": mirrored,
    "repeated": repeated,
    "brighter": brighter,
}


if __name__ == "__main__":
    main()
