"""Masks -> Dice and surface distances; pairs -> what they are worth, beside real scans against real scans."""

from _folder import HERE

import voxpair

session = voxpair.Session()
print(voxpair.evaluate_masks(HERE / "predictions", HERE / "cohort", HERE / "evaluation", session).as_text())

judge = voxpair.plan("unit").segmentation  # a segmenter that sees real cases alone says whether image and labels agree
measures = voxpair.evaluate_pairs(HERE / "synthetic", HERE / "cohort", HERE / "quality", session, segmenter=judge)
for found in measures:
    if found.structure is None and found.view is None and found.value is not None:
        print(f"{found.group}, {found.name}: {found.value:.3g}; real against real {found.floor}")
