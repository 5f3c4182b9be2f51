"""The main job as one command: on your scans, or on phantom hearts."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from voxpair.options import (
    Config,
    Device,
    DryRun,
    GeneratorName,
    Images,
    Labels,
    Layout,
    Modality,
    Output,
    Overwrite,
    PresetName,
    Quiet,
    Seed,
    Set,
    Table,
    Verbose,
    read_config,
    say_next,
    scans_of,
    session_of,
    show,
)


def run(
    source: Annotated[Path, typer.Argument(help="Folder of scans in any layout that 'import' takes, or a cohort.")],
    output: Output,
    generator: GeneratorName = "joint_ldm",
    preset: PresetName = "auto",
    layout: Layout = "auto",
    images: Images = None,
    labels: Labels = None,
    label_table: Table = None,
    modality: Modality = None,
    assignments: Set = [],  # noqa: B006  typer copies it
    config: Config = None,
    dry_run: DryRun = False,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Do it all on your scans: import, check, split, fit, sample, pretrain, segment, evaluate, report."""
    from voxpair import pipeline
    from voxpair.presets import plan

    scans = scans_of(source, layout, images, labels, label_table, modality)
    changes = read_config(config)
    if preset != "auto" or dry_run:  # a wrong word is refused before the scans are read
        listing = scans.listing() if preset == "auto" else None
        settings = plan(preset, changes, assignments, listing, generator)
    if dry_run:
        return show(settings)
    with session_of(device, seed, overwrite, quiet) as session:
        report = pipeline.run(
            scans, output, lambda cohort: plan(preset, changes, assignments, cohort, generator), session
        )
    say_next(f"open {shlex.quote(str(report))} in a browser")


def demo(
    output: Output,
    generator: GeneratorName = "joint_ldm",
    preset: PresetName = "demo",
    assignments: Set = [],  # noqa: B006
    config: Config = None,
    dry_run: DryRun = False,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """The main job on phantom hearts, on a laptop's CPU, within 15 minutes."""
    from voxpair import pipeline
    from voxpair.presets import plan

    settings = plan(preset, read_config(config), assignments, generator=generator)
    if dry_run:
        return show(settings)
    with session_of(device, seed, overwrite, quiet) as session:
        report = pipeline.demo(output, settings, session)
    say_next(f"open {shlex.quote(str(report))} in a browser")
