"""What the pairs of a finished run are worth and whom they copy; writes ``benchmarks/evaluation/worth-NAME.json``.

    python benchmarks/evaluation/worth.py hippocampus-48 RUNS/labelled-48 --from benchmarks/hippocampus/labelled-48.json

RUN is a folder of ``voxpair run`` or ``demo``, which measures and audits by itself; this keeps the numbers, and of
the single cases what the table needs. Where the generator has an autoencoder, its held-out scans go through it and back
and their texture is measured too: RUN/rebuilt/. ``--from`` names the file that holds the command and commit of the run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import voxpair
from voxpair.console import ConsoleProgress
from voxpair.core.run import read_json, write_json

HERE = Path(__file__).parent
OF_AUDIT = (
    "synthetic",
    "patients",
    "patients_copied",
    "expected_false_alarms",
    "excess_p_value",
    "membership_auc",
    "membership_interval",
    "control",
    "warnings",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("run", type=Path)
    parser.add_argument("--from", type=Path, required=True, dest="origin")
    given = parser.parse_args()
    origin, pairs, audit = (
        read_json(path) for path in (given.origin, given.run / "pairs/pairs.json", given.run / "audit/audit.json")
    )
    summary = read_json(given.run / "summary.json")
    result = {
        "command": origin["command"],
        "commit": origin["commit"],
        "machine": origin["machine"],
        "versions": pairs["versions"],
        "about": summary["about"],
        "generator": summary["settings"]["generator"],
        "extractor": pairs["extractor"],
        "cohorts": pairs["cohorts"],
        "warnings": pairs["warnings"],
        "measures": pairs["measures"],
        "reconstructions": texture_of_reconstructions(given.run),
        "audit": {key: audit[key] for key in OF_AUDIT} | {"copies": [copy["case"] for copy in audit["copies"]]},
    }
    path = HERE / f"worth-{given.name}.json"
    write_json(path, result)
    print(path)


def texture_of_reconstructions(run: Path) -> dict[str, Any] | None:
    """Return the texture of held-out scans that went through the autoencoder, and today's commit; None without one."""
    generator = run / "generator"
    if not (generator / "autoencoder").exists():
        return None
    cohort, quality = Path(read_json(generator / "done.json")["cohort"]), run / "rebuilt/quality"
    with ConsoleProgress() as progress:
        session = voxpair.Session(progress=progress)
        held_out = voxpair.Cohort.open(cohort).split("val")
        rebuilt = voxpair.reconstruct(generator, held_out, run / "rebuilt/scans", session)
        voxpair.evaluate_pairs(rebuilt, held_out, quality, session, segmenter=run / "segmenters/baseline")
    measures = [found for found in read_json(quality / "pairs.json")["measures"] if found["group"] == "texture"]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {"commit": commit, "measures": measures}


if __name__ == "__main__":
    sys.exit(main())
