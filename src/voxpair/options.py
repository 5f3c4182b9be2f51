"""What several verbs of the command line share: their options, each declared once, and how these are read."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxpair.core.errors import InputError

if TYPE_CHECKING:
    from voxpair.stages import Scans, Session

Output = Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Seed = Annotated[int, typer.Option(help="Names all randomness of this command.")]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace what an earlier command left there; run, demo and study keep the steps that are the same.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Results and errors, no progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the traceback of an unexpected error's cause.")]
PresetName = Annotated[str, typer.Option("--preset", "-p", help="A whole set of settings; 'voxpair info' lists them.")]
GeneratorName = Annotated[str, typer.Option("--generator", help="Which generator; 'voxpair info' lists them.")]
Set = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, e.g. a.b=3; repeatable.")
]
Config = Annotated[Path | None, typer.Option("--config", help="YAML file of settings, laid over the preset.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the resolved settings and stop.")]
Judge = Annotated[
    Path | None, typer.Option("--segmenter", help="Run folder of a segmenter that was fitted on real cases alone.")
]
Layout = Annotated[str, typer.Option(help="auto, nnunet, msd or patterns.")]
Images = Annotated[str | None, typer.Option(help="Pattern such as 'images/*.nii.gz'; * is the case.")]
Labels = Annotated[str | None, typer.Option(help="Pattern such as 'masks/*_mask.nii.gz'.")]
Table = Annotated[str | None, typer.Option(help="Built-in table, or a YAML file {name: value}.")]
Modality = Annotated[str | None, typer.Option(help="CT or MRI; found out if not given.")]


@contextmanager
def session_of(device: str, seed: int, overwrite: bool, quiet: bool) -> Iterator[Session]:
    from voxpair.console import ConsoleProgress
    from voxpair.stages import Session

    with ConsoleProgress(quiet=quiet) as progress:
        yield Session(seed=seed, device=device, overwrite=overwrite, progress=progress)


def scans_of(
    source: Path, layout: str, images: str | None, labels: str | None, label_table: str | None, modality: str | None
) -> Scans:
    from voxpair.stages import Scans

    return Scans(source, layout=layout, images=images, labels=labels, label_table=label_table, modality=modality)


def read_config(path: Path | None) -> dict[str, Any]:
    from voxpair.core.settings import read_yaml

    return read_yaml(path) if path else {}


def read_conditions(words: list[str]) -> dict[str, Any]:
    pairs = [word.partition("=") for word in words]
    for word, (key, sign, value) in zip(words, pairs):
        if not (key and sign and value):
            raise InputError(f"--condition {word!r}: expected KEY=VALUE, for example sex=F")
    return {key: value for key, _, value in pairs}


def show(settings: Any) -> None:
    import yaml

    typer.echo(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), nl=False)


def say_next(command: str) -> None:
    typer.echo(f"next: {command}")


def quoted(path: Path) -> str:
    return shlex.quote(str(path))
