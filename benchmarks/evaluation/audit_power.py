"""What the privacy audit can see: planted copies found against the strength of each disguise, and false alarms.

    python benchmarks/evaluation/audit_power.py DATA --work RUNS

DATA holds ``msd_hippocampus``; phantom hearts are made on the spot. Of each data set, 100 patients are the training
cases, 50 the reference, and the rest strangers that the detector has never met: whoever of them is flagged is a false
alarm. Writes audit_power.json beside this file.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

from voxpair.cohorts import layouts
from voxpair.cohorts.cohort import Cohort, CohortWriter
from voxpair.core.labels import CARDIAC8
from voxpair.core.run import RunFolder, derive_seed, versions, write_json
from voxpair.evaluation.audit.copy_detector import CopyDetector, DetectorSettings
from voxpair.evaluation.audit.disguises import DISGUISES, disguise
from voxpair.evaluation.audit.memorisation import DECIDING
from voxpair.phantom.heart_cohort import PhantomSettings, heart_cases

TRAINING, REFERENCE, PLANTED, SEED = 100, 50, 10, 0
STRENGTHS = (1.0, 2.0, 3.0)
HEARTS = PhantomSettings(grid=(40, 40, 40))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    settings = {
        "hippocampus": DetectorSettings(fit=("crop_or_pad",) * 3),
        "phantom": DetectorSettings(),
    }
    cohorts = {
        "hippocampus": hippocampi(given.data / "msd_hippocampus", given.work / "hippocampus"),
        "phantom": hearts(given.work / "phantom"),
    }
    result = {
        "command": "python benchmarks/evaluation/audit_power.py DATA --work RUNS",
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "versions": versions(),
        "seed": SEED,
        "settings": {name: chosen.model_dump(mode="json") for name, chosen in settings.items()},
        "results": {
            name: power(cohort, settings[name], RunFolder(given.work / f"{name}-run", seed=SEED))
            for name, cohort in cohorts.items()
        },
    }
    write_json(Path(__file__).with_name("audit_power.json"), result)


def hippocampi(source: Path, folder: Path) -> Cohort:
    if not (folder / "dataset.json").exists():
        layouts.import_scans(source, folder, layout="msd")
    return Cohort.open(folder)


def hearts(folder: Path) -> Cohort:
    if (folder / "dataset.json").exists():
        return Cohort.open(folder)
    writer = CohortWriter(folder, CARDIAC8, "CT")
    for case in heart_cases(HEARTS, 211, seed=SEED, first=len(writer)):
        writer.add(case)
    return writer.finish()


def power(cohort: Cohort, settings: DetectorSettings, run: RunFolder) -> dict[str, Any]:
    """Return the shares of planted copies and of strangers that are flagged, by detector and by either."""
    start = time.process_time()
    names = np.random.default_rng(derive_seed("audit power", SEED)).permutation(sorted(cohort.names)).tolist()
    training = cohort.subset(names[:TRAINING])
    reference = cohort.subset(names[TRAINING : TRAINING + REFERENCE])
    strangers = cohort.subset(names[TRAINING + REFERENCE :])
    detector = CopyDetector.fit(training, reference, settings, run)
    fitted = time.process_time()
    found = {}
    for kind in DISGUISES:
        for strength in (1.0,) if kind in ("exact", "flip") else STRENGTHS:
            planted = [disguise(training.read(name), kind, i, strength) for i, name in enumerate(names[:PLANTED])]
            found[f"{kind} x{strength:g}"] = flagged(detector, planted, names[:PLANTED])
            print(run.path.name, kind, strength, found[f"{kind} x{strength:g}"], flush=True)
    compared = time.process_time()
    return {
        "training": len(training),
        "reference": len(reference),
        "strangers": len(strangers),
        "planted_per_disguise": PLANTED,
        "thresholds": dict(detector.thresholds),
        "expected_false_alarm_rate": detector.flagged_strangers()["either"],
        "false_alarms": flagged(detector, strangers, None),
        "found": found,
        "processor_seconds": {
            "fit": round(fitted - start),
            "per_case": round((compared - fitted) / PLANTED / len(found), 2),
        },
    }


def flagged(detector: CopyDetector, cases: Any, originals: list[str] | None) -> dict[str, float]:
    """Return the share flagged; a planted copy counts only where the case that it was made of is the nearest."""
    counts = dict.fromkeys((*detector.thresholds, "either"), 0)
    total = 0
    for i, case in enumerate(cases):
        likeness = detector.match(case).likeness
        above = {}
        for name, threshold in detector.thresholds.items():
            nearest = detector.training.names[int(likeness.scores[name].argmax())]
            right = originals is None or nearest == originals[i]
            above[name] = likeness.nearest(name) > threshold and right
            counts[name] += above[name]
        counts["either"] += any(above[name] for name in DECIDING)
        total += 1
    return {name: round(count / total, 3) for name, count in counts.items()}


if __name__ == "__main__":
    main()
