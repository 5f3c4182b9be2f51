"""Verbs that learn p(image, labels) and draw from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxpair.core.errors import InputError
from voxpair.core.run import read_json
from voxpair.options import (
    Config,
    Device,
    DryRun,
    GeneratorName,
    Judge,
    Output,
    Overwrite,
    PresetName,
    Quiet,
    Seed,
    Set,
    Verbose,
    quoted,
    read_conditions,
    read_config,
    say_next,
    session_of,
    show,
)


def fit(
    cohort: Annotated[Path, typer.Argument(help="Cohort folder with a split.")],
    output: Output,
    generator: GeneratorName = "joint_ldm",
    pseudo_labels: Annotated[
        Path | None, typer.Option(help="Run folder of a segmenter that labels the unlabelled training cases.")
    ] = None,
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
    """Learn p(image, labels) from the training cases of a cohort."""
    from voxpair import stages
    from voxpair.presets import part

    settings = part(preset, "generator", read_config(config), assignments, cohort, generator)
    if dry_run:
        return show(settings)
    with session_of(device, seed, overwrite, quiet) as session:
        stages.fit(cohort, output, settings, session, generator=generator, pseudo_labels=pseudo_labels)
    say_next(f"voxpair sample {quoted(output)} -o SYNTHETIC -n 100")


def sample(
    run: Annotated[Path, typer.Argument(help="Run folder of 'voxpair fit'.")],
    output: Output,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Number of pairs.")] = 100,
    condition: Annotated[
        list[str], typer.Option(metavar="KEY=VALUE", help="Such as sex=F or volume:LAA=8; repeatable.")
    ] = [],  # noqa: B006
    assignments: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="Draw otherwise than fitted for: guidance=3, steps=50."),
    ] = [],  # noqa: B006
    select: Annotated[bool, typer.Option("--select", help="Keep only pairs that the rules accept.")] = False,
    real: Annotated[
        Path | None, typer.Option(help="Cohort that the rules of --select learn from; by default the generator's own.")
    ] = None,
    segmenter: Judge = None,
    rules: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Comma-separated rules of --select; all that can be applied by default."),
    ] = None,
    attempts: Annotated[int | None, typer.Option(min=1, help="Draws before --select gives up; ten per pair.")] = None,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Draw new pairs into a synthetic cohort; more of them later go on from where these end."""
    from voxpair import stages

    if not select and (real or segmenter or rules or attempts):
        raise InputError("--real, --segmenter, --rules and --attempts say how --select works; give --select too")
    selection = None
    if select:
        selection = stages.make_selection(run, real, segmenter, rules.split(",") if rules else None, attempts)
    with session_of(device, seed, overwrite, quiet) as session:
        stages.sample(
            run,
            output,
            count,
            session,
            condition=read_conditions(condition),
            sampling=assignments,
            selection=selection,
        )
    fitted_on = Path(read_json(run / "done.json").get("cohort", ""))
    cohort = quoted(fitted_on) if (fitted_on / "dataset.json").exists() else "COHORT"
    say_next(f"voxpair evaluate pairs {quoted(output)} {cohort} -o QUALITY")


def reconstruct(
    run: Annotated[Path, typer.Argument(help="Run folder of 'voxpair fit'.")],
    cohort: Annotated[Path, typer.Argument(help="Cohort whose scans are encoded and decoded.")],
    output: Output,
    split: Annotated[str | None, typer.Option(help="Only this split, such as val.")] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Send scans through a generator's autoencoder and back: the best that its samples can look like."""
    from voxpair import stages

    with session_of(device, 0, overwrite, quiet) as session:
        stages.reconstruct(run, cohort, output, session, split=split)
    say_next(f"voxpair evaluate pairs {quoted(output)} {quoted(cohort)} -o QUALITY")
