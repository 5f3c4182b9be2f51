"""What the pairs of a finished run are worth and whom they copy; writes ``benchmarks/evaluation/worth-NAME.json``.

    python benchmarks/evaluation/worth.py hippocampus-48 RUNS/labelled-48 --from benchmarks/hippocampus/labelled-48.json

RUN is a folder of ``voxpair run`` or ``demo``, which measures and audits by itself; this keeps the numbers, and of
the single cases what the table needs. ``--from`` names the file that holds the command and the commit of the run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

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
        "audit": {key: audit[key] for key in OF_AUDIT} | {"copies": [copy["case"] for copy in audit["copies"]]},
    }
    path = HERE / f"worth-{given.name}.json"
    write_json(path, result)
    print(path)


if __name__ == "__main__":
    sys.exit(main())
