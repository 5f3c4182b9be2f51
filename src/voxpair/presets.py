"""Presets: whole runs as data, with what to expect of them. ``voxpair info`` lists them, a test builds every one.

A preset is a function that returns the settings in which it differs from the components' own defaults, as a nested
dictionary; :func:`plan` lays a settings file and ``--set`` assignments over it and checks everything. Nothing that
computes is imported before a plan is built.

Each size has two families from one code path: the plain name is what we recommend, ``NAME-paper`` is what the papers
say, letter by letter, including what we think is wrong (label colours, ε-prediction with 1000 steps, flips that leak
into the samples, hidden blocks that hide next to nothing).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxpair.core.errors import InputError
from voxpair.core.settings import Settings, layered, merge, override
from voxpair.papers import papers_way

if TYPE_CHECKING:
    from voxpair.cohorts.cohort import Cohort
    from voxpair.cohorts.layouts import Listing
    from voxpair.plans import Plan

Nested = dict[str, Any]


def unit() -> Nested:
    """Every stage on tiny phantoms: for tests, not for the eye.

    Command: voxpair demo -o RUN --preset unit
    Hardware: one processor core, 1 GB
    Time: half a minute
    Score: none worth naming; hearts of 16 voxels are blobs
    """
    short = {"batch_size": 2, "precision": "32-true"}
    return layered(
        _shared({"grid": [16, 16, 16]}, {"channels": [8, 16, 16]}),
        {
            "about": "every stage on tiny phantoms",
            "cases": {"phantom": 10, "train": 6, "val": 2, "test": 2},
            "phantom": {"grid": [16, 16, 16], "field_of_view_mm": [150, 150, 130]},
            "synthetic_per_real": 0.5,
            "generator": {
                "autoencoder": {
                    "channels": [8, 16],
                    "stem_channels": 4,
                    "gate": 0,
                    "loop": {**short, "updates": 8, "warmup": 0},
                },
                "latents": {"copies": 2},
                "diffusion": {
                    "channels": [16, 16],
                    "attention": [False, False],
                    "loop": {**short, "updates": 8, "warmup": 0},
                },
                "sampling": {"steps": 3},
            },
            "pretraining": {"loop": {**short, "updates": 4, "validate_every": 2}},
            "segmentation": {"loop": {**short, "updates": 6, "validate_every": 3, "patience": None}},
        },
    )


def demo() -> Nested:
    """Phantom hearts from scans to report: the first thing to run.

    Command: make demo
    Hardware: two processor cores, 4 GB
    Time: within 15 minutes
    Score: hearts with their eight labels; Dice in benchmarks/phantom/
    """
    return layered(
        _shared({"grid": [40, 40, 40]}, {"channels": [8, 16, 32]}),
        {
            "about": "phantom hearts on a laptop's processor",
            "cases": {"phantom": 48, "train": 24, "val": 8, "test": 16},
            "phantom": {"grid": [40, 40, 40], "field_of_view_mm": [160, 160, 140]},
            "synthetic_per_real": 2.0,
            "generator": {
                "autoencoder": {
                    "channels": [16, 32],
                    "gate": 0.35,  # at 4 mm an appendage is a few dozen voxels
                    "loop": {"updates": 400, "batch_size": 2, "learning_rate": 2e-3, "warmup": 20},
                },
                "latents": {"copies": 8},
                "diffusion": {**_IN_CUBES, "loop": {"updates": 800, "batch_size": 2, "ema": 0.995}},
                "sampling": {"steps": 20},
                "conditions": {"columns": ["sex", "contrast", "metal", "scan_range"]},
            },
            "pretraining": {"loop": {"updates": 200, "batch_size": 4, "validate_every": 100}},
            "audit": {"detector": {"embedding": {"loop": {"updates": 150}}}, "planted": 6},
            "segmentation": {
                "rarity": 1.0,  # with less, so short a fit does not find the appendage
                "mix": {"real_only_last": 0.4},
                "loop": {
                    "updates": 450,
                    "batch_size": 2,
                    "learning_rate": 4e-3,
                    "validate_every": None,
                    "decay": "cosine",
                },
            },
        },
    )


def hippocampus() -> Nested:
    """Real brain MRI at native resolution, on a processor (MSD Task 04).

    Command: voxpair run msd_hippocampus -o RUN --preset hippocampus
    Hardware: two processor cores, 6 GB
    Time: within 90 minutes for generator, pretraining and one segmenter
    Score: Dice in benchmarks/hippocampus/
    """
    grid = {"grid": [40, 56, 40], "fit": "crop_or_pad"}
    return layered(
        _shared(grid, {"channels": [8, 16, 32, 64]}),
        {
            "about": "hippocampus MRI at native resolution",
            "cases": {"train": 168, "val": 43},
            "generator": {
                "autoencoder": {
                    "channels": [16, 32],
                    "loop": {"updates": 800, "batch_size": 2, "learning_rate": 1e-3, "warmup": 50},
                },
                "diffusion": {**_IN_CUBES, "loop": {"updates": 5000, "batch_size": 2, "ema": 0.998}},
                "sampling": {"steps": 25},
            },
            "pretraining": {"loop": {"updates": 200, "batch_size": 4, "validate_every": 100}},
            # No early stopping: the validation cases are the ones that are reported.
            "segmentation": {
                "mix": {"real_only_last": 0.4},
                "loop": {
                    "updates": 600,
                    "batch_size": 2,
                    "learning_rate": 2e-3,
                    "validate_every": None,
                    "decay": "cosine",
                },
            },
        },
    )


def study() -> Nested:
    """Cardiac CT at 96 × 96 × 96: tables over several seeds.

    Command: voxpair demo -o RUN --preset study
    Hardware: one GPU of 16 GB or more
    Time: not measured yet
    Score: not measured yet
    """
    return layered(_ct_size([96, 96, 96], batch_size=8), {"about": "cardiac CT at 96 x 96 x 96", "seeds": 3})


def large() -> Nested:
    """Cardiac CT at 128 × 128 × 128: to confirm what the study shows.

    Command: voxpair demo -o RUN --preset large
    Hardware: one GPU of 40 GB or more
    Time: not measured yet
    Score: not measured yet
    """
    return layered(
        _ct_size([128, 128, 128], batch_size=4),
        {"about": "cardiac CT at 128 x 128 x 128", "generator": {"autoencoder": {"channels": [32, 64, 128]}}},
    )


def best() -> Nested:
    """The papers' size, 256 × 256 × 160, done the way we recommend.

    Command: voxpair run SCANS -o RUN --preset best
    Hardware: one GPU of 80 GB or more
    Time: not measured yet
    Score: not measured yet
    """
    return layered(
        _ct_size([256, 256, 160], batch_size=1),
        {
            "about": "cardiac CT at 256 x 256 x 160",
            "cases": {"train": 168, "val": 43, "test": 51},
            "generator": {
                "autoencoder": {"channels": [32, 64, 128], "latent_channels": 8},
                "diffusion": {"channels": [64, 128, 256, 512], "attention": [False, False, True, True]},
            },
            "pretraining": {"patch": [128, 128, 128]},
            "segmentation": {"patch": [128, 128, 128]},
        },
    )


def paper() -> Nested:
    """Ikuta et al. 2024 and Hu et al. 2024, letter by letter, 256 × 256 × 160, at most 300 epochs.

    Command: voxpair run SCANS -o RUN --preset paper
    Hardware: one GPU of 80 GB or more
    Time: not measured yet
    Score: the papers report a mean Dice of .7743 (baseline), .7855 (Medical Diffusion), .7908 (Ours)
    """
    recipe = papers_way(best())
    loop = recipe["segmentation"]["loop"]
    return layered(recipe, {"segmentation": {"loop": {"updates": 300 * loop["validate_every"]}}})


def auto() -> Nested:
    """Chosen from the cohort's size and the machine: the default for your own scans.

    Command: voxpair run SCANS -o RUN
    Hardware: any; a GPU allows a finer grid
    Time: as hippocampus on a processor, as study on a GPU
    Score: depends on the scans
    """
    return {}


def demo_paper() -> Nested:
    """The demo with the papers' recipe.

    Command: voxpair demo -o RUN --preset demo-paper
    Hardware: two processor cores, 4 GB
    Time: half an hour; sampling takes 1000 steps
    Score: not measured yet
    """
    return papers_way(demo())


def hippocampus_paper() -> Nested:
    """The hippocampus run with the papers' recipe.

    Command: voxpair run msd_hippocampus -o RUN --preset hippocampus-paper
    Hardware: two processor cores, 6 GB
    Time: some hours; sampling takes 1000 steps
    Score: not measured yet
    """
    return papers_way(hippocampus())


_IN_CUBES: Nested = {"patch": 2, "channels": [64, 128], "attention": [False, True]}
"""A denoiser for processors: cubes of 2 x 2 x 2 latent voxels make an update two to three times cheaper."""

PRESETS: dict[str, Callable[[], Nested]] = {
    "auto": auto,
    "unit": unit,
    "demo": demo,
    "demo-paper": demo_paper,
    "hippocampus": hippocampus,
    "hippocampus-paper": hippocampus_paper,
    "study": study,
    "large": large,
    "best": best,
    "paper": paper,
}

VOXELS_ON_PROCESSOR = 90_000
VOXELS_ON_GPU = 96**3


def plan(
    name: str,
    config: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
    cohort: Cohort | Path | Listing | None = None,
    generator: str = "joint_ldm",
) -> Plan:
    """Return the settings of preset ``name`` with a settings file and ``key=value`` assignments laid over them.

    Args:
        cohort: what "auto" looks at; scans that are listed and not imported yet will do.
        generator: whose settings the plan holds.

    Raises:
        InputError: no such preset or generator, an unknown key, a value of the wrong kind, or "auto" without a cohort.
    """
    from voxpair.generators import GENERATORS, preset_settings
    from voxpair.plans import Plan

    if generator not in GENERATORS:
        raise InputError(f"no generator {generator!r}; there are {', '.join(GENERATORS)}")
    built = merge(Plan(), _look_up(name, cohort), source=f"preset {name}")
    if generator != "joint_ldm":
        size = _size_of_auto() if name == "auto" else name
        built = built.using(generator, preset_settings(generator, size, built.generator.preprocess))
    return override(merge(built, dict(config or {}), source="--config"), assignments)


def part(
    name: str,
    which: str,
    config: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
    cohort: Cohort | Path | None = None,
    generator: str = "joint_ldm",
) -> Settings:
    """Return one part of a preset, such as "generator"; file and assignments speak of that part alone."""
    settings = getattr(plan(name, cohort=cohort, generator=generator), which)
    return override(merge(settings, dict(config or {}), source="--config"), assignments)


def _look_up(name: str, cohort: Cohort | Path | Listing | None) -> Nested:
    if name not in PRESETS:
        raise InputError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    if name != "auto":
        return PRESETS[name]()
    if cohort is None:
        raise InputError("the preset 'auto' looks at a cohort; import the scans first, or name another preset")
    return _for_cohort(cohort)


def _size_of_auto() -> str:
    """Return the preset whose networks "auto" takes on this machine."""
    import torch

    return "study" if torch.cuda.is_available() else "hippocampus"


def _for_cohort(cohort: Cohort | Path | Listing) -> Nested:
    """Plan for a cohort: its median shape, shrunk until the machine can hold it, on multiples of 8."""
    import nibabel as nib
    import numpy as np

    from voxpair.cohorts.cohort import Cohort

    cohort = Cohort.open(cohort) if isinstance(cohort, str | Path) else cohort
    shapes = []
    for image in cohort.images:
        header = nib.load(image)
        axes = nib.io_orientation(header.affine)[:, 0].astype(int)
        shape = np.empty(3)
        shape[axes] = header.shape[:3]
        shapes.append(shape)
    gpu = _size_of_auto() == "study"
    shape = np.median(shapes, axis=0)
    shrink = min(1.0, ((VOXELS_ON_GPU if gpu else VOXELS_ON_PROCESSOR) / shape.prod()) ** (1 / 3))
    grid = [max(16, round(n * shrink / 8) * 8) for n in shape]
    base = study() if gpu else hippocampus()
    base["generator"].pop("conditions", None)
    about = f"planned from {len(shapes)} scans of median shape {' x '.join(f'{n:.0f}' for n in shape)}"
    return layered(
        base,
        _shared({"grid": grid, "fit": "resample"}, {}),
        {
            "about": about,
            "cases": {"train": 0.6, "val": 0.2, "test": 0.2},
            # The validation cases are not the ones that are reported here, so they may say when to stop.
            "segmentation": {"loop": {"validate_every": 100, "patience": 10}},
        },
    )


def _shared(preprocess: Nested, backbone: Nested) -> Nested:
    """Grid, curve of CT and backbone that generator, pretraining and segmentation have in common."""
    preprocess = {"soft_tissue_hu": [-200, 600], **preprocess}
    return {
        "generator": {"preprocess": preprocess},
        "pretraining": {"preprocess": preprocess, "backbone": backbone},
        "segmentation": {"preprocess": preprocess, "backbone": backbone},
    }


def _ct_size(grid: list[int], batch_size: int) -> Nested:
    return layered(
        _shared({"grid": grid}, {"channels": [32, 64, 128, 256]}),
        {
            "cases": {"phantom": 300, "train": 100, "val": 50, "test": 150},
            "phantom": {"grid": grid},
            "generator": {
                "autoencoder": {"loop": {"updates": 20000, "batch_size": batch_size}},
                "diffusion": {"loop": {"updates": 50000, "batch_size": 16}, "channels": [64, 128, 256]},
                "sampling": {"steps": 30},
                "conditions": {"columns": ["sex", "contrast", "metal", "scan_range", "volume:LAA", "volume:PA"]},
            },
            "pretraining": {"loop": {"updates": 5000, "batch_size": 4}},
            "segmentation": {"loop": {"updates": 5000, "batch_size": 4, "validate_every": 100, "patience": 10}},
        },
    )
