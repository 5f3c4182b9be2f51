"""Run folder: where a stage reads and writes, what it logs, and how its randomness is named.

Nothing here is half-written: every file goes to a temporary name in the same folder,
is flushed to the disk and then renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from voxpair.core.errors import InputError, RunError


class Progress(Protocol):
    """What a stage tells its caller while it works; the command line draws it, tests leave it silent."""

    def start(self, description: str, total: int, done: int = 0) -> None:
        """Begin a piece of work of ``total`` steps, of which ``done`` were finished by an earlier run."""

    def advance(self, steps: int = 1, **numbers: float) -> None:
        """``steps`` more are done; ``numbers`` (loss, Dice) may be shown beside the bar."""

    def say(self, message: str) -> None:
        """One line worth reading."""


class Silent:
    """The Progress of tests and libraries."""

    def start(self, description: str, total: int, done: int = 0) -> None: ...

    def advance(self, steps: int = 1, **numbers: float) -> None: ...

    def say(self, message: str) -> None: ...


SILENT: Progress = Silent()


_UMASK = os.umask(0)  # there is no other way to ask for it
os.umask(_UMASK)


@dataclass(frozen=True)
class RunFolder:
    """A folder that one stage owns.

    ``seed`` names all randomness of the stage, ``device`` is torch's name for where it runs. ``cache`` holds prepared
    cases; several stages may share one, since what lies there is named by its content. By default it is
    the stage's own.
    """

    path: Path
    seed: int = 0
    device: str = "cpu"
    progress: Progress = field(default=SILENT, repr=False)
    cache: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        object.__setattr__(self, "cache", Path(self.cache or self.path / "prepared"))
        make_folder(self.path)

    def child(self, name: str) -> RunFolder:
        """Return the sub-folder ``name`` as a run folder with the same seed, device, progress and cache."""
        return RunFolder(self.path / name, self.seed, self.device, self.progress, self.cache)

    def file(self, name: str) -> Path:
        return self.path / name

    def log(self, record: dict[str, Any]) -> None:
        """Append one JSON line to ``metrics.jsonl``."""
        with self.file("metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def is_done(self, inputs_digest: str) -> bool:
        """True if this stage finished earlier with these inputs; InputError if it finished with others."""
        marker = self.file("done.json")
        if not marker.exists():
            return False
        found = read_json(marker)["inputs"]
        if found != inputs_digest:
            raise InputError(
                f"{self.path} holds a finished stage of other settings or data (digest {found}, not {inputs_digest}). "
                "Choose another folder, or pass --overwrite to do it again."
            )
        return True

    def mark_done(self, inputs_digest: str, **facts: Any) -> None:
        """Record that the stage is complete."""
        write_json(self.file("done.json"), {"inputs": inputs_digest, **facts, "versions": versions()})


def make_folder(path: Path) -> Path:
    """Create a folder and its parents, or say plainly why not."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create the folder {path}: {error.strerror or error}") from None
    return path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on failure it is removed.

    The temporary name keeps the full suffix, since writers such as nibabel choose the format by it.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_UMASK)  # some libraries write files that nobody else may read
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}. Nothing was changed there.") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON; NaN and infinity are refused rather than written as invalid JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"cannot read {path} as JSON: {error}") from None


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read a ``metrics.jsonl``; a last line cut short by a kill is left out."""
    records = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def derive_seed(*parts: Any) -> int:
    """Return a 63-bit seed that depends on ``parts`` alone, on any machine and Python.

    >>> derive_seed("sample", 0, 7) == derive_seed("sample", 0, 7) != derive_seed("sample", 0, 8)
    True
    """
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, and the kind of machine."""
    names = ("voxpair", "torch", "monai", "lightning-fabric", "numpy", "scipy", "nibabel")
    found = {"python": platform.python_version(), "machine": f"{sys.platform} {platform.machine()}"}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
