"""Seconds and memory per phantom by size, mode and number of processes, and where they go; writes ``speed.json``.

    python benchmarks/phantom/speed.py

Each row is made by a fresh process, so that its peak memory is its own; libraries use one thread each. A case is
counted after a small one has warmed the process up. Seconds are of the machine named in the file and of nothing else:
``cpu_seconds`` is what a case costs, ``wall_seconds`` what one waits on that machine as busy as ``load`` says.
"""

from __future__ import annotations

import cProfile
import json
import os
import platform
import pstats
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from voxpair.core.run import versions, write_json
from voxpair.phantom import PhantomSettings, heart_case, heart_cases

HERE = Path(__file__).parent
GRIDS = {"32": (32, 32, 32), "64": (64, 64, 64), "128": (128, 128, 128), "256x256x160": (256, 256, 160)}
FORMS = {
    "fast": {},
    "physical": {"mode": "physical"},
    "fast, moving": {"motion": 1.0},
    "mr": {"modality": "mr"},
}
PLAIN = {"motion": 0.0, "stepped": 0.0, "lead": 0.0, "wires": 0.0, "valve": 0.0, "stent": 0.0}
SLOWEST = 6


def measure(grid: str, form: str) -> dict[str, Any]:
    """Return the cost of one case, made in this process."""
    settings = PhantomSettings(**{**PLAIN, **FORMS[form], "grid": GRIDS[grid]})
    heart_case(settings.model_copy(update={"grid": (16, 16, 16)}), 0, 0)
    cpu, wall = time.process_time(), time.monotonic()
    heart_case(settings, 0, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux
    return {
        "grid": grid,
        "form": form,
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "wall_seconds": round(time.monotonic() - wall, 2),
        "peak_memory_gib": round(peak / 2**20, 2),
    }


def streamed(workers: int) -> dict[str, Any]:
    """Return the wall time per case of 64³ phantoms made by so many processes."""
    settings = PhantomSettings(**PLAIN)
    count = 24
    start = time.monotonic()
    for _ in heart_cases(settings, count, 0, workers=workers):
        pass
    return {"workers": workers, "grid": "64", "wall_seconds_per_case": round((time.monotonic() - start) / count, 3)}


def slowest(grid: str, form: str) -> list[dict[str, Any]]:
    """Return the functions of ours in which a case spends most time, those that they call included."""
    settings = PhantomSettings(**{**PLAIN, **FORMS[form], "grid": GRIDS[grid]})
    heart_case(settings.model_copy(update={"grid": (16, 16, 16)}), 0, 0)
    profile = cProfile.Profile()
    profile.runcall(heart_case, settings, 0, 1)
    statistics = pstats.Stats(profile)
    parts = (
        "build_scene", "build_heart", "thorax_layers", "paint", "label_map", "region_map", "noise", "blur", "project",
        "back_project", "ramp_filter", "signal", "_counted", "water_path", "as_drawn", "inflation",
    )  # fmt: skip
    found = [
        {"function": f"{Path(file).stem}.{name}", "seconds": round(row[3], 2)}
        for (file, _, name), row in statistics.stats.items()
        if "phantom" in Path(file).parts and name in parts
    ]
    return sorted(found, key=lambda part: -part["seconds"])[:SLOWEST]


def in_fresh_process(*words: str) -> Any:
    """Return what this program prints when called with ``words``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__, *words], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def main() -> None:
    if len(sys.argv) > 1:
        kind, *words = sys.argv[1:]
        job = {"measure": measure, "slowest": slowest, "streamed": lambda workers: streamed(int(workers))}[kind]
        print(json.dumps(job(*words)))
        return
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=HERE).stdout.strip()
    result = {
        "command": "python benchmarks/phantom/speed.py",
        "commit": commit,
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "load": round(os.getloadavg()[0], 1)},
        "versions": versions(),
        "cases": [in_fresh_process("measure", grid, form) for grid in GRIDS for form in FORMS],
        "processes": [in_fresh_process("streamed", str(n)) for n in range(1, (os.cpu_count() or 1) + 1)],
        "slowest_parts": {form: in_fresh_process("slowest", "256x256x160", form) for form in ("fast", "physical")},
    }
    write_json(HERE / "speed.json", result)
    print(HERE / "speed.json")


if __name__ == "__main__":
    main()
