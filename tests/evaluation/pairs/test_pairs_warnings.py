"""What pairs.json warns of: small sets, and voxels of another size."""

import json
from dataclasses import replace

import numpy as np
import pytest

from voxpair.cohorts.cohort import CohortWriter
from voxpair.core.labels import CARDIAC8
from voxpair.evaluation.pairs.evaluate import Judges, evaluate_pairs
from voxpair.phantom.heart_cohort import PhantomSettings, heart_cases


class Corners:
    """Features that are the first voxels of an image."""

    name, digest = "corners", "0"

    def features(self, case):
        return dict.fromkeys(("axial", "coronal", "sagittal"), case.image[:2, 0, 0])


@pytest.fixture(scope="module")
def hearts():
    return list(heart_cases(PhantomSettings(grid=(16, 16, 16), field_of_view_mm=(150, 150, 130)), 10, seed=5))


def warnings_of(folder, synthetic, real):
    cohorts = []
    for name, cases in (("synthetic", synthetic), ("real", real)):
        writer = CohortWriter(folder / name, CARDIAC8, "CT")
        for case in cases:
            writer.add(replace(case, source="synthetic" if name == "synthetic" else "phantom"))
        cohorts.append(writer.finish())
    evaluate_pairs(*cohorts, folder, judges=Judges(Corners(), labeller=None))
    return json.loads((folder / "pairs.json").read_text())["warnings"]


def test_voxels_of_another_size_are_named_on_whatever_axis(hearts, tmp_path):
    (small_sets,) = warnings_of(tmp_path / "same", hearts[:4], hearts[4:])
    assert small_sets.startswith("4 synthetic and 6 real cases")
    longer = [replace(case, affine=case.affine @ np.diag([1, 1, 1.1, 1])) for case in hearts[:4]]
    _, sizes = warnings_of(tmp_path / "longer", longer, hearts[4:])
    assert sizes.startswith("voxels of 8.94 x 9.38 x 9.38 mm, synthetic, and 8.12 x 9.38 x 9.38 mm, real")
