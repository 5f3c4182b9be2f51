"""MedGen3D's settings by preset: sizes, and the paper's recipe. ``voxpair.presets`` names the grid.

Takes the name of a preset and its preprocessing; gives settings. As everywhere, the plain name is what we recommend and
``NAME-paper`` is what the papers say, at the same size; ``paper`` is their size as well.

Sources: Han et al. 2023, section 4.1 (grid, slices, m, noising steps). What they leave out is that of the works they
build on: DDPM's 1000 levels, vid2vid's painter and losses (Wang et al. 2018), SDM's network (Wang et al. 2022).
"""

from __future__ import annotations

from typing import Any

from voxpair.cohorts.preprocess import PreprocessSettings
from voxpair.core.settings import layered, merge
from voxpair.generators.medgen3d.generator import MedGen3DSettings

Nested = dict[str, Any]

_SHORT: Nested = {"updates": 4, "batch_size": 2, "warmup": 0, "precision": "32-true"}
_TINY: Nested = {"channels": [8, 8], "attention": [False, False], "head_channels": 8}

SIZES: dict[str, Nested] = {
    "unit": {
        "mask_sequence": {**_TINY, "loop": _SHORT},
        "image_sequence": {
            "width": 4,
            "halvings": 1,
            "blocks": 2,
            "scales": 1,
            "clip": 3,
            "temporal_scales": 1,
            "loop": _SHORT,
            "critic_width": 4,
            "critic_layers": 1,
            "critic_levels": 1,
        },
        "refiner": {"diffusion": {**_TINY, "label_width": 4, "loop": _SHORT}},
        "sampling": {"steps": 2, "refiner": {"steps": 2}},
    },
    "demo": {
        "mask_sequence": {
            "channels": [32, 64, 96],
            "loop": {"updates": 900, "batch_size": 8, "ema": 0.99, "learning_rate": 2e-3},
        },
        "image_sequence": {
            "width": 8,
            "scales": 1,
            "critic_width": 16,
            "critic_levels": 1,
            "loop": {"updates": 700, "ema": 0.98},
        },
        "refiner": {
            "diffusion": {
                "channels": [24, 48],
                "attention": [False, False],
                "head_channels": 24,
                "loop": {"updates": 400, "batch_size": 4, "ema": 0.98, "warmup": 20},
            },
        },
        "sampling": {"steps": 10, "refiner": {"steps": 5, "guidance": 1.0}},
    },
    "hippocampus": {
        "mask_sequence": {
            "channels": [32, 64, 96],
            "loop": {"updates": 2500, "batch_size": 8, "ema": 0.998, "learning_rate": 1e-3},
        },
        "image_sequence": {"scales": 1, "critic_levels": 1, "loop": {"updates": 2000}},
        "refiner": {
            "diffusion": {
                "channels": [32, 64],
                "attention": [False, False],
                "loop": {"updates": 1200, "batch_size": 4, "ema": 0.99},
            },
        },
        "sampling": {"refiner": {"steps": 5, "guidance": 1.0}},
    },
    "study": {},
    "large": {},
    "best": {
        "mask_sequence": {"slice_size": [128, 128], "loop": {"updates": 50000}},
        "image_sequence": {"width": 32, "scales": 3, "loop": {"updates": 20000}},
        "refiner": {"diffusion": {"channels": [64, 128, 192], "loop": {"updates": 20000}}},
    },
}
"""What differs from the defaults, which suit a GPU and slices of about 96 x 96 voxels."""

RECIPE: Nested = {
    "mask_sequence": {"window": 6, "label_code": "scalar", "prediction": "epsilon", "schedule": "linear"},
    "image_sequence": {
        "past": 2,
        "scales": 1,
        "coarse_fraction": 0.0,
        "temporal_scales": 2,
        "shortcut": False,
        "flow_gain": 20.0,
        "video_weight": 1.0,
        "feature_weight": 10.0,
        "flow_weight": 10.0,
        "warp_weight": 10.0,
        "pixel_weight": 0.0,
    },
    "refiner": {"trained_to": 1000},
    "sampling": {
        "sampler": "ddpm",
        "steps": 1000,
        "first_window": "random",
        "refiner": {"start": 10, "steps": None, "sampler": "ddpm", "fusion": "mean", "guidance": 1.5},
    },
}
"""The papers' choices at any size."""

PAPER: Nested = {
    "preprocess": {"grid": [320, 320, 96], "fit": "crop_or_pad"},
    "mask_sequence": {
        "slice_size": [128, 128],
        "channels": [64, 128, 192, 256],
        "attention": [False, False, True, True],
        "res_blocks": 2,
        "loop": {"updates": 100_000, "learning_rate": 1e-4},
    },
    "image_sequence": {
        "width": 128,
        "halvings": 3,
        "blocks": 9,
        "critic_width": 64,
        "critic_layers": 3,
        "critic_levels": 2,
        "loop": {"updates": 50_000, "batch_size": 1, "learning_rate": 2e-4},
    },
    "refiner": {
        "diffusion": {
            "channels": [256, 256, 512, 512, 1024, 1024],
            "attention": [False, False, False, True, True, True],
            "res_blocks": 2,
            "head_channels": 64,
            "label_width": 128,
            "loop": {"updates": 100_000, "learning_rate": 1e-4},
        }
    },
}
"""The papers' size, thorax CT; they do not say how long they fitted."""


def medgen3d_settings(name: str, preprocess: PreprocessSettings) -> MedGen3DSettings:
    """Return the settings of preset ``name`` on the grid that the preset's other parts have.

    >>> paper = medgen3d_settings("paper", PreprocessSettings())
    >>> paper.preprocess.grid, paper.mask_sequence.slice_size, paper.sampling.steps
    ((320, 320, 96), (128, 128), 1000)
    """
    if name == "paper":
        layers = [PAPER, RECIPE]
    elif name.endswith("-paper"):
        layers = [SIZES[name.removesuffix("-paper")], RECIPE]
    else:
        layers = [SIZES[name]]
    nested = layered({"preprocess": preprocess.model_dump()}, *layers)  # at once: the parts are checked together
    return merge(MedGen3DSettings(), nested, source=f"preset {name}")
