"""The verb that compares: the papers' experiments, and others, as one command."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from voxpair.core.errors import InputError
from voxpair.options import (
    Config,
    Device,
    DryRun,
    GeneratorName,
    Output,
    Overwrite,
    PresetName,
    Quiet,
    Seed,
    Set,
    Verbose,
    read_config,
    say_next,
    session_of,
    show,
)


def study(
    cohort: Annotated[Path, typer.Argument(help="Cohort folder of real scans.")],
    output: Output,
    arms: Annotated[
        str,
        typer.Option(metavar="NAMES", help="Comma-separated; the first is the reference. 'voxpair info' lists them."),
    ] = "baseline_equal_updates,medical_diffusion,ours,ours_real_last",
    seeds: Annotated[int, typer.Option(min=1, help="Segmenters per arm; more of them later add to these.")] = 3,
    labelled: Annotated[str, typer.Option(metavar="NUMBERS", help="Labelled training cases, such as 8,16,48.")] = "",
    unlabelled: Annotated[str, typer.Option(metavar="NUMBERS", help="Unlabelled training cases, such as 0,152.")] = "",
    networks: Annotated[str, typer.Option(metavar="NAMES", help="Each arm once for each, such as unet3d,unetr.")] = "",
    ratios: Annotated[str, typer.Option(metavar="NUMBERS", help="Synthetic per real case, such as 1,3,10.")] = "",
    target: Annotated[Path | None, typer.Option(help="Second cohort, of the arms e3_1 to e3_4.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Segmenters side by side; by default as many as fit.")
    ] = None,
    generator: GeneratorName = "joint_ldm",
    preset: PresetName = "auto",
    assignments: Set = [],  # noqa: B006
    config: Config = None,
    dry_run: DryRun = False,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare ways of making a segmenter, with statistics: same patients, equal updates, several seeds."""
    from voxpair.presets import plan
    from voxpair.study import Sweep, run_study

    settings = plan(preset, read_config(config), assignments, cohort, generator)
    sweep = Sweep(
        _numbers("--labelled", labelled, int),
        _numbers("--unlabelled", unlabelled, int),
        _words(networks),
        _numbers("--ratios", ratios, float),
    )
    if dry_run:
        return show(settings)
    with session_of(device, seed, overwrite, quiet) as session:
        report = run_study(
            cohort,
            output,
            settings,
            session,
            arms=_words(arms),
            seeds=seeds,
            sweep=sweep,
            target=target,
            workers=workers,
        )
    say_next(f"open {shlex.quote(str(report))} in a browser; the table is {shlex.quote(str(output / 'study.md'))}")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(option: str, text: str, kind: type) -> list:
    try:
        found = [kind(word) for word in _words(text)]
    except ValueError:
        raise InputError(f"{option} {text!r}: expected numbers with commas between them, such as 8,16,48") from None
    if any(number < 0 for number in found):
        raise InputError(f"{option} {text!r}: numbers cannot be below 0")
    return found
