"""Does one change to the segmenter help? Judged on training cases that are put aside, never on the held-out ones.

    python benchmarks/hypotheses/segmenter.py rarity-phantoms COHORT --preset demo --labelled 16 --aside 8 \
        --variant rarity=0 --variant rarity=0.5 --seeds 3 --work RUNS

The first variant is the reference; all begin alike and get the same number of updates, on real cases alone. Writes
``benchmarks/hypotheses/NAME.json``; calling it again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from judging import judged, provenance, table

import voxpair
from voxpair.cohorts.cohort import Cohort
from voxpair.console import ConsoleProgress
from voxpair.core.run import write_json
from voxpair.core.settings import override

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
                evaluated[variant].append(judged([cohort], settings, folder, session))
            collect(given, evaluated)


def part(cohort: Cohort, labelled: int, aside: int) -> Cohort:
    """Return a view of the training split: the first cases train, the last ones are judged, the others are left out."""
    train = cohort.split("train").labelled().records
    if labelled + aside > len(train):
        sys.exit(f"{labelled} + {aside} cases asked for, but the training split has {len(train)} with labels")
    put_aside = (replace(record, split="test") for record in train[-aside:])
    return replace(cohort, records=(*train[:labelled], *put_aside))


def collect(given: argparse.Namespace, evaluated: dict[str, list[Path]]) -> None:
    words = [given.name, "COHORT", "--work", "RUNS", "--preset", given.preset, "--labelled", str(given.labelled)]
    words += ["--aside", str(given.aside), "--seeds", str(given.seeds)]
    words += [word for name in given.variant for word in ("--variant", name)]
    words += [word for text in given.assignments for word in ("--set", text)]
    result = {
        **provenance(f"python benchmarks/hypotheses/segmenter.py {shlex.join(words)}"),
        "judged": f"the last {given.aside} training cases, put aside",
        **table(evaluated, given.work / given.name),
    }
    write_json(HERE / f"{given.name}.json", result)
    print(HERE / f"{given.name}.json")


if __name__ == "__main__":
    main()
