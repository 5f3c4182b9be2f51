"""Judge the predictions of a finished run of ``protocols.py`` anew, and compare them with today's statistics.

    python benchmarks/compare_again.py benchmarks/hippocampus/labelled-16.json RUNS/labelled-16 RUNS/cohort

Nothing is fitted: the predictions are those of the commit in the file. Its ``comparisons`` are replaced, and
``compared`` says by which commit.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from voxpair import Cohort
from voxpair.core.run import read_json, write_json
from voxpair.evaluation.masks.comparison import compare_protocols
from voxpair.evaluation.masks.evaluate import evaluate_masks
from voxpair.experiment import place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("cohort", type=Path)
    given = parser.parse_args()
    result = read_json(given.result)
    reference = Cohort.open(given.cohort).split(result["held_out"]["split"])
    with tempfile.TemporaryDirectory() as folder:
        judged: dict[str, list[Path]] = {}
        for name, facts in result["protocols"].items():
            for seed in result["seeds"]:
                where = Path(folder) / place(name, seed)
                summary = evaluate_masks(Cohort.open(given.run / "predictions" / place(name, seed)), reference, where)
                if abs(summary.dice.mean - facts["mean_dice_by_seed"][seed]) > 1e-9:
                    raise SystemExit(f"{given.run} is not the run of {given.result}: {name}, seed {seed} differs")
                judged.setdefault(name, []).append(where)
        pairs = list(dict.fromkeys((c["a"], c["b"]) for c in result["comparisons"]))
        result["comparisons"] = compare_protocols(judged, pairs, Path(folder) / "comparison.json")["comparisons"]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    words = f"{given.result.parent.name}/{given.result.name} RUNS/{given.run.name} RUNS/cohort"
    result["compared"] = {"command": f"python benchmarks/compare_again.py benchmarks/{words}", "commit": commit}
    write_json(given.result, result)
    print(given.result)


if __name__ == "__main__":
    sys.exit(main())
