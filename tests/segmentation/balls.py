"""Small cohorts of balls in two halves, for the tests of pre-training and segmentation."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from voxpair.cohorts.cohort import Cohort, CohortWriter
from voxpair.core.case import Case
from voxpair.core.labels import HIPPOCAMPUS

AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])


def ball(name, *, shape=(16, 16, 16), seed=0, source="real", patient=None, affine=AFFINE, table=HIPPOCAMPUS):
    """A ball at a random place: its lower half (label 1) is half as bright as its upper half (label 2)."""
    random = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    centre = [n / 2 + random.uniform(-1, 1) for n in shape]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    radius = random.uniform(0.28, 0.34) * min(n * s for n, s in zip(shape, spacing))
    inside = sum((s * (a - c)) ** 2 for a, c, s in zip(axes, centre, spacing)) < radius**2
    labels = np.where(inside, np.where(axes[2] < centre[2], 1, 2), 0).astype(np.uint8)
    image = (50.0 * labels + random.normal(0, 4, shape)).astype(np.float32)
    return Case(name, image, labels, affine, table, patient=patient or name, source=source)


def balls(folder: Path, count: int, *, first=0, unlabelled=0, source="real", manifest=None, **options) -> Cohort:
    """A cohort of ``count`` balls named by their source; the last ``unlabelled`` of them have no labels."""
    table = options.get("table", HIPPOCAMPUS)
    writer = CohortWriter(folder, table, "MRI")
    for i in range(first, first + count):
        case = ball(f"{source}{i}", seed=i, source=source, **options)
        writer.add(replace(case, labels=None) if i >= first + count - unlabelled else case)
    return writer.finish(manifest=manifest)
