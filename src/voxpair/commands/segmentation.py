"""Verbs that learn an encoder from images and a segmenter from pairs, and let it predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxpair.options import (
    Config,
    Device,
    DryRun,
    Output,
    Overwrite,
    PresetName,
    Quiet,
    Seed,
    Set,
    Verbose,
    quoted,
    read_config,
    say_next,
    session_of,
    show,
)


def pretrain(
    cohorts: Annotated[list[Path], typer.Argument(help="Cohorts whose images are learnt from; labels are not used.")],
    output: Output,
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
    """Masked image modelling: learn an encoder from images alone."""
    from voxpair import stages
    from voxpair.presets import part

    settings = part(preset, "pretraining", read_config(config), assignments, cohort=cohorts[0])
    if dry_run:
        return show(settings)
    with session_of(device, seed, overwrite, quiet) as session:
        stages.pretrain(cohorts, output, settings, session)
    made = {path: stages.is_made(stages.opened(path)) for path in cohorts}
    real = [quoted(path) for path in cohorts if not made[path]][:1] or ["COHORT"]
    shown = " ".join(real + [quoted(path) for path in cohorts if made[path]])
    same = "" if preset == "auto" else f" --preset {preset}"  # the encoder goes into that preset's network
    say_next(f"voxpair segment fit {shown} -o SEGMENTER --encoder {quoted(output)}{same}")


def fit(
    cohorts: Annotated[list[Path], typer.Argument(help="One real cohort with a split, and synthetic cohorts.")],
    output: Output,
    encoder: Annotated[Path | None, typer.Option(help="Run folder of 'voxpair pretrain'.")] = None,
    start: Annotated[Path | None, typer.Option(help="Run folder of a segmenter to go on from (fine-tuning).")] = None,
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
    """Fit a segmenter on real, or real and synthetic, pairs."""
    from voxpair import stages
    from voxpair.presets import part

    settings = part(preset, "segmentation", read_config(config), assignments, cohort=cohorts[0])
    if dry_run:
        return show(settings)
    with session_of(device, seed, overwrite, quiet) as session:
        stages.segment_fit(cohorts, output, settings, session, encoder=encoder, start=start)
    (real,) = (path for path in cohorts if not stages.is_made(stages.opened(path)))
    counts = stages.opened(real).split_counts
    held_out = next((f" --split {name}" for name in ("test", "val") if counts.get(name)), "")
    say_next(f"voxpair segment predict {quoted(output)} {quoted(real)} -o PREDICTIONS{held_out}")


def predict(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of 'voxpair segment fit'; several decide together.")],
    cohort: Annotated[Path, typer.Argument(help="Cohort whose images are segmented.")],
    output: Output,
    split: Annotated[str | None, typer.Option(help="Only the cases of this split: train, val or test.")] = None,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Segment every image of a cohort, in its original geometry; the result is a cohort."""
    from voxpair import stages

    with session_of(device, seed, overwrite, quiet) as session:
        stages.segment_predict(runs, cohort, output, session, split=split)
    say_next(f"voxpair evaluate masks {quoted(output)} {quoted(cohort)} -o EVALUATION")
