"""What the 3D view gets: the same volumes, small, in the right place, and a library whose origin is known."""

import base64
import gzip
import re
from hashlib import sha256
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxpair.report import viewer as module
from voxpair.report.results import Preview, Structure
from voxpair.report.viewer import viewer

VENDORED = Path(module.__file__).parent / "viewer"


def preview(shape, spacing_mm=(1.0, 1.5, 2.0), names=("a",)):
    image = np.linspace(0, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    labels = (image > 0.5).astype(np.uint8)
    every = dict.fromkeys
    return Preview(every(names, image), every(names, labels), {}, {}, every(names, spacing_mm), (-1000.0, 2000.0))


def read(text) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def test_a_small_volume_is_kept_voxel_by_voxel():
    case = preview((6, 7, 8))
    (volume,) = viewer({"real": case}, [Structure("LV", "#ff0000")], None).volumes
    image, labels = read(volume["image"]), read(volume["labels"])
    assert image.get_data_dtype() == labels.get_data_dtype() == np.uint8
    assert np.abs(image.get_fdata() / 255 - case.images["a"]).max() <= 0.5 / 255 + 1e-6
    assert (labels.get_fdata() == case.labels["a"]).all()
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S") and (image.affine == labels.affine).all()
    assert image.header.get_zooms() == (1.0, 1.5, 2.0)
    assert image.affine @ [2.5, 3.0, 3.5, 1] == pytest.approx([0, 0, 0, 1])  # the middle is the origin


def test_a_large_volume_is_thinned_with_its_labels_and_keeps_its_size():
    (volume,) = viewer({"synthetic": preview((160, 96, 97))}, [], None).volumes
    image, labels = read(volume["image"]), read(volume["labels"])
    assert image.shape == labels.shape == (80, 96, 49)
    assert image.header.get_zooms() == (2.0, 1.5, 4.0)


def test_the_window_is_that_of_the_slices():
    case = preview((2, 2, 2))
    (volume,) = viewer({"real": case}, [], (-1000, 2000)).volumes
    whole = read(volume["image"]).get_fdata()
    (volume,) = viewer({"real": case}, [], (-150, 550)).volumes
    narrow = read(volume["image"]).get_fdata()
    assert whole.min() == 0 and whole.max() == 255 and ((narrow == 0) | (narrow == 255)).sum() > 2


def test_few_of_each_kind_are_shown_so_that_the_page_stays_small():
    noise = np.random.default_rng(0).random((96, 96, 96), np.float32)
    names = tuple("abcdef")
    full = Preview(
        dict.fromkeys(names, noise), dict.fromkeys(names, np.zeros(noise.shape, np.uint8)), {}, {},
        dict.fromkeys(names, (1.0, 1.0, 1.0)), None,
    )  # fmt: skip
    one = viewer({"real": Preview({"a": noise}, full.labels, {}, {}, full.spacing_mm, None)}, [], None)
    count = sum(module.SHOWN.values())
    assert len(one.volumes[0]["image"]) * count + len(one.library) < 14e6  # even where every volume is noise
    small = viewer(dict.fromkeys(module.SHOWN, preview((4, 4, 4), names=names)), [], None)
    assert len(small.volumes) == count


def test_classes_that_the_label_table_does_not_name_are_white():
    found = viewer({"real": preview((2, 2, 2))}, [], None)
    assert found.structures == [{"name": "class 1", "colour": "#ffffff"}]


def test_no_volume_no_view():
    assert viewer({}, [], None) is None
    assert viewer({"predictions": preview((2, 2, 2))}, [], None) is None


def test_the_vendored_library_is_the_file_that_the_readme_names():
    readme, licences = ((VENDORED / name).read_text() for name in ("README.md", "LICENSES.txt"))
    assert (
        re.search("`([0-9a-f]{64})`", readme).group(1) == sha256((VENDORED / "niivue.umd.js").read_bytes()).hexdigest()
    )
    assert "BSD 2-Clause License" in licences and "Copyright (c) 2021, Niivue" in licences
    assert "</script" not in (VENDORED / "viewer.js").read_text()
