"""Which structures of the phantom are hard? A U-Net learns from 100 hearts; writes ``difficulty.json``.

    python benchmarks/phantom/difficulty.py --work RUNS

The papers rank AO easiest, PA and LAA hardest. Labels are those of an expert, who ends PA where he likes. Calling it
again goes on where it stopped. A phantom shows that a method works as built; it says nothing about clinical validity.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import torch

import voxpair
from voxpair.cohorts.preprocess import PreprocessSettings
from voxpair.console import ConsoleProgress
from voxpair.core.run import read_json, versions, write_json
from voxpair.networks.backbones import BackboneSettings
from voxpair.phantom import PhantomSettings
from voxpair.segmentation.segmenter import SegmenterSettings
from voxpair.training.loop import LoopSettings

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for cohort and segmenter; they resume")
    parser.add_argument("--train", type=int, default=100)
    parser.add_argument("--test", type=int, default=40)
    parser.add_argument("--side", type=int, default=64, help="voxels along each axis")
    parser.add_argument("--channels", type=int, nargs="*", default=[16, 32, 64, 128])
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=2)
    given = parser.parse_args()
    with ConsoleProgress() as progress:
        scores = measure(given, voxpair.Session(seed=0, progress=progress))
    result = {
        "command": shlex.join(["python", "benchmarks/phantom/difficulty.py", *sys.argv[1:]]),
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "threads": torch.get_num_threads()},
        "versions": versions(),
        "train": given.train,
        "test": given.test,
        "grid": [given.side] * 3,
        "channels": given.channels,
        "updates": given.updates,
        "dice": scores,
    }
    write_json(HERE / "difficulty.json", result)
    print(HERE / "difficulty.json")


def measure(given: argparse.Namespace, session: voxpair.Session) -> dict[str, float]:
    """Return mean Dice by structure of the held-out hearts, easiest first."""
    grid, cohort = (given.side,) * 3, given.work / "cohort"
    voxpair.make_phantoms(cohort, given.train + given.test, PhantomSettings(grid=grid), session, workers=2)
    if set(voxpair.Cohort.open(cohort).split_counts) == {""}:
        voxpair.split(cohort, (given.train, 0, given.test), session)
    settings = SegmenterSettings(
        backbone=BackboneSettings(channels=tuple(given.channels)),
        preprocess=PreprocessSettings(grid=grid),
        loop=LoopSettings(
            updates=given.updates, batch_size=given.batch_size, learning_rate=3e-3, decay="cosine", validate_every=None
        ),
    )
    run = voxpair.segment_fit([cohort], given.work / "segmenter", settings, session)
    predicted = voxpair.segment_predict(run, cohort, given.work / "predictions", session, split="test")
    voxpair.evaluate_masks(predicted, cohort, given.work / "scores", session)
    found = read_json(given.work / "scores" / "masks.json")["structures"]
    dice = {name: round(each["dice"]["mean"], 3) for name, each in found.items()}
    return dict(sorted(dice.items(), key=lambda item: -item[1]))


if __name__ == "__main__":
    main()
