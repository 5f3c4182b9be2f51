"""Wall time and peak memory of whole commands, as a user would run them; writes one JSON a measurement.

    python benchmarks/speed/measure.py demo --work RUNS
    python benchmarks/speed/measure.py sample GENERATOR_RUN --work RUNS --count 100
    python benchmarks/speed/measure.py preset SCANS --work RUNS
    python benchmarks/speed/measure.py medgen3d COHORT --work RUNS --count 8

``demo`` is ``make demo`` on a clean clone, the making of its environment included. ``preset`` is what the
``hippocampus`` preset costs on all 168 labelled cases: generator, 100 pairs, pretraining, one segmenter. ``medgen3d``
is its ``demo`` preset on a split cohort, such as the demo's hearts.
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

import torch

from voxpair.core.run import read_json, versions, write_json

HERE = Path(__file__).parent
VOXPAIR = str(Path(sys.executable).with_name("voxpair"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["demo", "sample", "preset", "medgen3d"])
    parser.add_argument("source", type=Path, nargs="?", help="run folder of 'voxpair fit', scans, or a cohort")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100)
    given = parser.parse_args()
    work = given.work
    work.mkdir(parents=True, exist_ok=True)
    if given.what == "demo":
        clone = work / "clone"
        subprocess.run(["git", "clone", "--quiet", HERE.parents[1], clone], check=True)
        seconds = timed({"make demo": ["make", "demo"]}, clone)
        details = {"seconds_by_stage": read_json(clone / "demo/timings.json")}
    elif given.what == "sample":
        draw = [VOXPAIR, "sample", str(given.source), "-o", str(work / "speed-sample"), "-n", str(given.count)]
        seconds = timed({f"voxpair sample -n {given.count}": draw})
        details = {"seconds_per_pair": round(sum(seconds.values()) / given.count, 2)}
    elif given.what == "preset":
        seconds = timed(preset_commands(given.source, work, given.count))
        details = {"seconds_by_command": seconds, "settings": {"preset": "hippocampus"}}
    else:
        seconds = timed(medgen3d_commands(given.source, work, given.count))
        *_, drawing = seconds.values()
        details = {"seconds_by_command": seconds, "seconds_per_pair": round(drawing / given.count, 2)}
    result = {
        "command": ", ".join(seconds),
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "threads": torch.get_num_threads()},
        "versions": versions(),
        "wall_seconds": round(sum(seconds.values()), 1),
        # Of the largest process; KiB on Linux.
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2),
        **details,
    }
    write_json(HERE / f"{given.what}.json", result)
    print(HERE / f"{given.what}.json")


def preset_commands(scans: Path, work: Path, count: int) -> dict[str, list[str]]:
    """Return the verbs of the main job one by one, as typed."""
    cohort, generator, pairs, encoder, segmenter = (
        str(work / name) for name in ("cohort", "generator", "pairs", "encoder", "segmenter")
    )
    preset = ["--preset", "hippocampus"]
    return {
        "import": [VOXPAIR, "import", str(scans), "-o", cohort, "--layout", "msd"],
        "split": [VOXPAIR, "split", cohort, "--train", "168", "--val", "43"],
        "fit": [VOXPAIR, "fit", cohort, "-o", generator, *preset],
        f"sample -n {count}": [VOXPAIR, "sample", generator, "-o", pairs, "-n", str(count)],
        "pretrain": [VOXPAIR, "pretrain", cohort, pairs, "-o", encoder, *preset],
        "segment fit": [VOXPAIR, "segment", "fit", cohort, pairs, "-o", segmenter, "--encoder", encoder, *preset],
    }


def medgen3d_commands(cohort: Path, work: Path, count: int) -> dict[str, list[str]]:
    """Return the two verbs of a generator."""
    generator, pairs = str(work / "generator"), str(work / "pairs")
    fit = [VOXPAIR, "fit", str(cohort), "-o", generator, "--generator", "medgen3d", "--preset", "demo"]
    return {
        "fit --generator medgen3d": fit,
        f"sample -n {count}": [VOXPAIR, "sample", generator, "-o", pairs, "-n", str(count)],
    }


def timed(commands: dict[str, list[str]], place: Path | None = None) -> dict[str, float]:
    """Run commands one after the other; return the seconds of each."""
    seconds = {}
    for name, command in commands.items():
        start = time.monotonic()
        subprocess.run(command, cwd=place, check=True)
        seconds[name] = round(time.monotonic() - start, 1)
    return seconds


if __name__ == "__main__":
    main()
