"""Wall time and peak memory of whole commands, as a user would run them; writes one JSON a command.

    python benchmarks/speed/measure.py demo --work RUNS
    python benchmarks/speed/measure.py sample GENERATOR_RUN --work RUNS --count 100

``demo`` is ``make demo`` on a clean clone, the making of its environment included.
Seconds are of the machine named in the file and of nothing else; compare them only within one file.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

from voxpair.core.run import read_json, versions, write_json

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["demo", "sample"])
    parser.add_argument("generator", type=Path, nargs="?", help="run folder of 'voxpair fit', for sample")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    if given.what == "demo":
        clone = given.work / "clone"
        subprocess.run(["git", "clone", "--quiet", HERE.parents[1], clone], check=True)
        command, place, out = ["make", "demo"], clone, clone / "demo"
    else:
        out = given.work / "speed-sample"
        voxpair = Path(sys.executable).with_name("voxpair")
        command, place = [voxpair, "sample", given.generator, "-o", out, "-n", str(given.count)], None
    start = time.monotonic()
    subprocess.run(command, cwd=place, check=True)
    seconds = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # of the largest process: KiB on Linux
    result = {
        "command": "make demo" if given.what == "demo" else f"voxpair sample -n {given.count}",
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "versions": versions(),
        "wall_seconds": round(seconds, 1),
        "peak_memory_gib": round(peak / 2**20, 2),
    }
    if (out / "timings.json").exists():
        result["seconds_by_stage"] = read_json(out / "timings.json")
    if given.what == "sample":
        result["seconds_per_pair"] = round(seconds / given.count, 2)
    write_json(HERE / f"{given.what}.json", result)
    print(HERE / f"{given.what}.json")


if __name__ == "__main__":
    main()
