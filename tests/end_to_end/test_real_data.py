"""Real scans of awkward kinds go through the command line and the autoencoder; skipped where they are not there."""

import numpy as np
import pytest
import torch

from voxpair.cli import main
from voxpair.cohorts.cohort import Cohort
from voxpair.cohorts.datasets import CaseBatches, PreparedCohort
from voxpair.cohorts.preprocess import Preprocessor, PreprocessSettings
from voxpair.core.run import RunFolder
from voxpair.generators.joint_ldm.autoencoder import AutoencoderSettings
from voxpair.generators.joint_ldm.reconstruction import AutoencoderTask, make_autoencoder
from voxpair.training.loop import LoopSettings, fit


def run(*words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert end.value.code == 0


def test_hippocampus_is_imported_and_split_as_the_papers_split(shared_data, tmp_path, capsys):
    run("import", shared_data / "msd_hippocampus", "-o", tmp_path / "cohort", "--layout", "msd")
    said = capsys.readouterr().err
    assert "uint8" in said and "float32" in said and "intensity scales differ" in said
    run("split", tmp_path / "cohort", "--train", "168", "--val", "43")
    assert Cohort.open(tmp_path / "cohort").split_counts == {"train": 168, "val": 43}


def test_acdc_gets_its_true_spacing_and_says_so(shared_data, tmp_path, capsys):
    words = ["--images", "images/*.nii.gz", "--labels", "masks/*_mask.nii.gz", "--label-table", "acdc"]
    run("import", shared_data / "acdc", "-o", tmp_path / "cohort", *words)
    assert "pixdim" in capsys.readouterr().err
    cohort = Cohort.open(tmp_path / "cohort")
    assert len(cohort) == 99 and cohort.label_table.names == ("RV", "MYO", "LV")
    spacing = cohort.read(cohort.names[0]).spacing_mm
    assert 1 < spacing[0] < 2 and spacing[2] >= 5


def test_brain_slabs_with_float_labels(shared_data, tmp_path, capsys):
    words = ["--images", "*_t1.nii.gz", "--labels", "*_seg.nii.gz", "--label-table", "brain4"]
    run("import", shared_data / "ptbp_brain", "-o", tmp_path / "cohort", *words)
    assert "floating point" in capsys.readouterr().err
    case = Cohort.open(tmp_path / "cohort").read("ptbp01")
    assert set(np.unique(case.labels)) == {0, 1, 2, 3, 4} and sorted(case.image.shape) == [18, 182, 217]


def test_cardiac_ct_through_preprocessing_and_autoencoder_and_back_in_hu(shared_data, tmp_path):
    folder = tmp_path / "scans"
    for name, source in (("images", "cardiac_cta"), ("labels", "cardiac_cta_heart1_aorta2_pa3")):
        (folder / name).mkdir(parents=True)
        (folder / name / "cta.nii.gz").symlink_to(shared_data / "ct" / f"{source}.nii.gz")
    run("import", folder, "-o", tmp_path / "cohort", "--images", "images/*.nii.gz", "--labels", "labels/*.nii.gz", "-q")
    cohort = Cohort.open(tmp_path / "cohort")
    assert cohort.modality == "CT"
    preprocessor = Preprocessor(PreprocessSettings(grid=(24, 24, 24)), cohort.label_table, "CT")
    prepared = PreparedCohort.build(cohort, preprocessor, tmp_path / "prepared")
    settings = AutoencoderSettings(channels=(8, 16), stem_channels=8, spectral_weight=0, label_drop=0, kl_weight=1e-6)
    torch.manual_seed(0)
    network = make_autoencoder(settings, cohort.label_table)
    loop = LoopSettings(updates=80, batch_size=2, learning_rate=5e-3, decay="cosine", warmup=5)
    fit(AutoencoderTask(network, settings), CaseBatches(prepared, 2, 0), loop, RunFolder(tmp_path / "fit"))

    item = prepared[0]
    image = torch.from_numpy(np.array(item.image))[None, None]
    classes = torch.from_numpy(np.array(item.labels)).long()[None]
    with torch.inference_mode():
        mean, _ = network.encode(image, classes, torch.tensor([True]))
        made, output = network.decode(mean)
    decoded = network.code.decode(output)[0].numpy().astype(np.uint8)
    restored = preprocessor.restore(
        made[0, 0].numpy(), decoded, item.geometry, name="cta", patient="cta", source="synthetic"
    )
    original = cohort.read("cta")
    assert restored.image.shape == original.image.shape and np.allclose(restored.affine, original.affine)
    assert restored.image.min() >= -1000 and restored.image.max() <= 2000
    same = {"name": "cta", "patient": "cta", "source": "real"}
    ceiling = preprocessor.restore(np.array(item.image), None, item.geometry, **same).image  # what the grid can hold
    assert np.corrcoef(restored.image.ravel(), ceiling.ravel())[0, 1] > 0.85
    heart = original.labels == 1
    assert abs(restored.image[heart].mean() - ceiling[heart].mean()) < 100  # HU
