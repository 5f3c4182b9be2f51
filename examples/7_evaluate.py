"""Predictions and reference labels -> Dice and surface distances, per structure and case."""

from _folder import HERE

import voxpair

print(voxpair.evaluate_masks(HERE / "predictions", HERE / "cohort", HERE / "evaluation", voxpair.Session()))
print((HERE / "evaluation/masks.csv").read_text()[:300])
