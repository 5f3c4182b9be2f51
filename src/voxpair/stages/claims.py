"""How a stage owns its folder: it claims it with ``stage.json`` (kind, settings, inputs, seed).

The same call again goes on where it stopped, or says that it is done already; a different call on the same folder is
refused and told what differs. ``session.overwrite`` replaces what was made differently, and does again what is done.

Sub-folders that are stages of their own (further seeds lie below the first) are no part of a stage: they may be there
before it, and stay when it is replaced.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from voxpair.cohorts.cohort import Cohort
from voxpair.core.errors import InputError, RunError
from voxpair.core.run import SILENT, Progress, RunFolder, make_folder, read_json, versions, write_json, write_text
from voxpair.core.settings import Settings

BYTES_TO_START = 50_000_000
"""Less free space than this on the disk, and a stage does not begin."""

BEFORE_RESULTS = {"stage.json", "settings.yaml", "cases.jsonl"}
"""Files that a stage may have written before it has a result: its claim, and the journal of a cohort without cases."""


@dataclass(frozen=True)
class Session:
    """How a stage is done, as opposed to what it does.

    Args:
        seed: names all randomness.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        overwrite: replace what an earlier call left in the output folder.
        progress: where progress is shown; nowhere by default.
        cache: folder of prepared cases that several stages share; None gives each stage its own.
        nested: the stage is a step of a longer job, which comes by here more than once: what is done already and the
            same is kept even with ``overwrite``, and not talked about.
    """

    seed: int = 0
    device: str = "auto"
    overwrite: bool = False
    progress: Progress = SILENT
    cache: Path | None = None
    nested: bool = False


@contextmanager
def claim(
    folder: Path, kind: str, settings: Settings | None, session: Session, inputs: Mapping[str, Any]
) -> Iterator[RunFolder]:
    """Make ``folder`` this stage's own while it works there, or recognise it as such; see the top of this module.

    A stage that fails with an InputError before it has a result leaves no claim: the corrected call is welcome.
    """
    run = _claimed(folder, kind, settings, session, inputs)
    try:
        yield run
    except InputError:
        if {path.name for path in folder.rglob("*") if path.is_file()} <= BEFORE_RESULTS:
            shutil.rmtree(folder)
        raise


def _claimed(
    folder: Path, kind: str, settings: Settings | None, session: Session, inputs: Mapping[str, Any]
) -> RunFolder:
    device = resolve_device(session.device) if settings else "cpu"
    wanted = {
        "voxpair": kind,
        "seed": session.seed,
        "inputs": dict(inputs),
        "settings": settings.model_dump(mode="json") if settings else {},
    }
    marker = folder / "stage.json"
    if marker.exists():
        found = read_json(marker)
        differences = _differences(found, wanted, "")
        if differences and not session.overwrite:
            raise InputError(
                f"{folder} holds {a(found.get('voxpair', 'stage'))} made differently ({'; '.join(differences[:3])}). "
                "Choose another folder, or pass --overwrite to replace it."
            )
        if differences or (session.overwrite and not session.nested and finished(folder)):
            for path in _own(folder):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif folder.is_dir() and _own(folder):
        raise InputError(f"{folder} is not empty and was not made by voxpair; choose another folder")
    if not finished(folder):
        _check_space(folder)
    make_folder(folder)
    if not marker.exists():
        write_json(marker, wanted)
        if settings:
            write_text(folder / "settings.yaml", yaml.safe_dump(wanted["settings"], sort_keys=False))
    return RunFolder(folder, session.seed, device, session.progress, session.cache)


def a(noun: str) -> str:
    """Return a noun with its article.

    >>> a("import"), a("generator")
    ('an import', 'a generator')
    """
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _check_space(folder: Path) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < BYTES_TO_START:
        raise RunError(
            f"the disk of {folder} has {free / 1e6:.0f} MB left; at least {BYTES_TO_START / 1e6:.0f} are needed"
        )


def _own(folder: Path) -> list[Path]:
    """Return what lies in ``folder`` and is no stage of its own."""
    return [path for path in folder.iterdir() if not (path / "stage.json").exists()]


def stage_facts(folder: Path, kind: str) -> dict[str, Any]:
    """Return the facts of a finished stage of the right kind."""
    if not (folder / "stage.json").exists():
        raise InputError(f"{folder} is no run folder of voxpair: it has no stage.json")
    facts = read_json(folder / "stage.json")
    if facts["voxpair"] != kind:
        raise InputError(f"{folder} holds {a(facts['voxpair'])}; expected {a(kind)}")
    if not finished(folder):
        raise InputError(f"the {kind} in {folder} is not finished; run the command that makes it again to go on")
    return facts


def finished(folder: Path) -> bool:
    return (folder / "done.json").exists() or (folder / "dataset.json").exists()


def already_done(folder: Path, session: Session) -> bool:
    """True, and says so, if the stage that owns ``folder`` had finished before this call."""
    done = finished(folder)
    if done and not session.nested:
        session.progress.say(f"already done: {folder} is finished; --overwrite does it again")
    return done


def finish(folder: Path, **facts: Any) -> None:
    write_json(folder / "done.json", {**facts, "versions": versions()})


def opened(cohort: Path | Cohort) -> Cohort:
    return cohort if isinstance(cohort, Cohort) else Cohort.open(Path(cohort))


def resolve_device(name: str) -> str:
    """Return torch's name of a device that is there.

    Raises:
        InputError: the device is unknown or absent.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = name.partition(":")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind not in there or (index and not index.isdigit()):
        raise InputError(f"--device {name!r}: expected auto, cpu, cuda, cuda:N or mps")
    if int(index or 0) >= there[kind]:
        raise InputError(f"--device {name!r}: this machine has {there[kind]} devices of that kind")
    return name


def _differences(found: Any, wanted: Any, path: str) -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = dict.fromkeys((*found, *wanted))
        return [
            line for key in keys for line in _differences(found.get(key), wanted.get(key), f"{path}.{key}".strip("."))
        ]
    return [] if found == wanted else [f"{path} was {found!r}, now {wanted!r}"]
