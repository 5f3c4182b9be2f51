"""The papers' recipe, letter by letter, laid over a preset of any size.

Takes a preset's nested settings; gives them with what Ikuta et al. 2024 and Hu et al. 2024 say in place of what we
recommend. Sources: section 3 of both papers; what they do not say stays as the preset has it.
"""

from __future__ import annotations

from typing import Any

from voxpair.core.settings import layered

Nested = dict[str, Any]


def papers_way(preset: Nested) -> Nested:
    """Return ``preset`` with what the papers say in place of what we recommend, whatever its size.

    The papers count patience in epochs, of which one is a pass over nine tenths of the pairs: the tenth judges. Epochs
    are those of the arm with most pairs, so that every arm is judged equally often.
    """
    synthetic = 3 * preset["cases"]["train"]
    epochs = {
        part: round(0.9 * pairs / preset[part]["loop"]["batch_size"])
        for part, pairs in (("pretraining", synthetic), ("segmentation", synthetic + preset["cases"]["train"]))
    }
    straight = {"soft_tissue_hu": None}  # -1000 to 2000 HU on a straight line to 0 to 1
    return layered(
        preset,
        {
            "about": preset["about"] + ", the papers' recipe",
            "generator": {
                "preprocess": straight,
                "autoencoder": {
                    "label_code": "rgb",
                    "stem_channels": 3,
                    "fusion": "add",
                    "spectral_weight": 0,
                    "label_drop": 0,
                    "label_weight": 1.0,
                    "augmentation": "paper",
                    "gate": 0,
                },
                "latents": {"augmentation": "paper"},
                "diffusion": {"formulation": "epsilon", "trust": None, "start": 1.0, "levels": 1000, "loss": "l2"},
                "sampling": {"sampler": "ddpm", "steps": 1000},
                "conditions": {"columns": []},
            },
            "synthetic_per_real": 3.0,
            "pretrain_on": "synthetic",
            "pretraining": {
                "preprocess": straight,
                "masking": {"kind": "paper"},
                "loss": "whole",
                "validation_fraction": 0.1,
                "loop": {"learning_rate": 1e-3, "validate_every": epochs["pretraining"], "patience": 50},
            },
            "segmentation": {
                "preprocess": straight,
                "mix": {"synthetic_share": 0.75, "real_only_last": 0},
                "rarity": 0.0,
                "validation": "tenth_of_mixed",
                "loop": {
                    "learning_rate": 1e-3,
                    "decay": "constant",
                    "validate_every": epochs["segmentation"],
                    "patience": 10,
                },
            },
        },
    )
