"""Fixtures shared by all tests."""

import json
from pathlib import Path

import nibabel as nib
import pytest
import torch

from voxpair.core.labels import CARDIAC8
from voxpair.phantom.heart_cohort import PhantomSettings, heart_cases

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real volumes that lies beside the checkout on a developer's machine."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no real volumes beside this checkout (../shared/data); the tests on phantoms cover the code")
    return SHARED_DATA


@pytest.fixture(autouse=True, scope="session")
def _two_threads() -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def small_scans(tmp_path_factory) -> Path:
    """A folder of ten tiny phantom scans in the layout of the Medical Segmentation Decathlon."""
    folder = tmp_path_factory.mktemp("scans")
    settings = PhantomSettings(grid=(16, 16, 16), field_of_view_mm=(150, 150, 130))
    names = []
    for case in heart_cases(settings, 10, seed=5):
        names.append(case.name)
        for kind, array in (("imagesTr", case.image), ("labelsTr", case.labels)):
            (folder / kind).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, case.affine), folder / kind / f"{case.name}.nii.gz")
    content = {
        "name": "small",
        "modality": {"0": "CT"},
        "labels": {str(value): name for name, value in CARDIAC8.to_mapping().items()},
        "numTraining": len(names),
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder
