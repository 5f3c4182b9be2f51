"""Onto the grid and back: places, labels and intensities survive."""

import itertools
import json

import nibabel as nib
import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage

from voxpair.cohorts.geometry import Geometry, resample
from voxpair.cohorts.preprocess import Preprocessor, PreprocessSettings
from voxpair.core.case import Case
from voxpair.core.errors import InputError, RunError
from voxpair.core.labels import ACDC, HIPPOCAMPUS, LabelTable

BLOBS = LabelTable.from_mapping("blobs", {"background": 0, "big": 2, "small": 7})
ORIENTATIONS = [(p, s) for p in itertools.permutations(range(3)) for s in itertools.product((1, -1), repeat=3)]


def blobs(shape, seed=0):
    """Two smooth random structures with values 2 and 7."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 4, mode="nearest")
    return np.where(field > np.quantile(field, 0.8), 7, np.where(field > np.median(field), 2, 0)).astype(np.uint8)


def scan(shape=(20, 24, 28), affine=None, labels=None, seed=0, table=BLOBS, **changes):
    image = np.random.default_rng(seed).normal(100, 40, shape).astype(np.float32)
    affine = np.diag((1.5, 1.0, 2.0, 1.0)) if affine is None else affine
    facts = {"name": "scan", "image": image, "labels": labels, "affine": affine, "label_table": table, "patient": "p"}
    return Case(**(facts | changes))


def preprocessor(modality="MRI", table=BLOBS, **settings):
    return Preprocessor(PreprocessSettings(**settings), table, modality)


def one_hot(labels, classes):
    return np.stack([labels == k for k in range(classes)]).astype(np.float32)


def dice(a, b, value):
    return 2 * np.sum((a == value) & (b == value)) / (np.sum(a == value) + np.sum(b == value))


def oriented_ball(permutation, signs, centre_mm, spacing=(1.0, 1.2, 1.5), fov_mm=48.0):
    """A smooth ball at ``centre_mm``, stored with axis j along +-world axis permutation[j]; slightly oblique."""
    shape = tuple(round(fov_mm / s) for s in spacing)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for j, (world, sign) in enumerate(zip(permutation, signs)):
        affine[world, j] = sign * spacing[j]
    c, s = np.cos(0.1), np.sin(0.1)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ affine[:3, :3]
    affine[:3, 3] = [7, -11, 40] - affine[:3, :3] @ (np.array(shape) - 1) / 2
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    distance = np.linalg.norm(index @ affine[:3, :3].T + affine[:3, 3] - centre_mm, axis=-1)
    return np.exp(-((distance / 5) ** 2)).astype(np.float32), (distance < 7).astype(np.uint8) * 2, affine


def centroid_mm(weights, affine):
    index = np.stack(np.meshgrid(*map(np.arange, weights.shape), indexing="ij"), -1)
    return affine[:3, :3] @ np.average(index.reshape(-1, 3), axis=0, weights=weights.ravel()) + affine[:3, 3]


@pytest.mark.parametrize("orientation", ORIENTATIONS[::5])
@pytest.mark.parametrize(
    "settings",
    [
        {"grid": (40, 32, 36)},
        {"grid": (48, 44, 32), "fit": "crop_or_pad", "pad": "constant"},  # a mirror would show the ball again
        {"grid": (33, 30, 25), "fit": ("resample", "crop_or_pad", "crop_or_pad"), "spacing_mm": (1.0, 1.7, 2.3)},
    ],
)
def test_a_landmark_stays_at_its_millimetres(orientation, settings):
    centre = np.array([9.0, -9.5, 42.5])
    image, labels, affine = oriented_ball(*orientation, centre)
    before = centroid_mm(labels, affine)
    prepared = preprocessor(robust_percentiles=(0, 100), **settings).forward(
        scan(image.shape, affine, labels, image=image)
    )
    found = prepared.geometry.affine
    assert nib.aff2axcodes(found) == ("R", "A", "S")
    assert prepared.image.shape == prepared.labels.shape == tuple(settings["grid"])
    spacing = np.array(prepared.geometry.spacing_mm)
    assert np.all(np.abs(centroid_mm(prepared.image, found) - centre) < 0.02 * spacing)
    # two roundings to whole voxels move a small ball's labels more, but by less than the half voxel of a wrong corner
    assert np.all(np.abs(centroid_mm(prepared.labels == 1, found) - before) < 0.25 * spacing)


def test_posterior_superior_right_axes_become_right_anterior_superior():
    affine = np.array([[0, 0, 1.0, 0], [-1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1]])  # index axes run P, S, R
    assert nib.aff2axcodes(affine) == ("P", "S", "R")
    image = np.zeros((4, 5, 6), np.float32)
    image[1, 2, 3] = 1  # P 1, S 2, R 3
    case = scan(image.shape, affine, image=image)
    prepared = preprocessor(grid=(6, 4, 5), fit="crop_or_pad", robust_percentiles=(0, 100)).forward(case)
    assert np.argwhere(prepared.image == 1).tolist() == [[3, 4 - 1 - 1, 2]]


def test_resampling_is_exact_on_a_ramp_about_voxel_faces():
    ramp = np.broadcast_to(np.arange(12, dtype=np.float32)[:, None, None], (12, 3, 3))
    halved = resample(ramp, (6, 3, 3), (2.0, 1.0, 1.0))
    np.testing.assert_allclose(halved[1:-1, 1, 1], np.arange(0.5, 12, 2)[1:-1], atol=1e-5)
    doubled = resample(ramp, (24, 3, 3), (0.5, 1.0, 1.0))
    np.testing.assert_allclose(doubled[1:-1, 1, 1], (np.arange(24) / 2 - 0.25)[1:-1], atol=1e-5)


def test_spacing_asked_for_is_the_spacing_got():
    prepared = preprocessor(grid=(31, 17, 22), fit="crop_or_pad", spacing_mm=(1.1, 1.3, 1.7)).forward(scan())
    np.testing.assert_allclose(prepared.geometry.spacing_mm, (1.1, 1.3, 1.7), rtol=1e-9)


def test_a_coarser_grid_averages_instead_of_picking_voxels():
    noise = scan((64, 64, 64), np.eye(4))
    coarse = preprocessor(grid=(8, 8, 8)).forward(noise).image
    fine = preprocessor(grid=(64, 64, 64)).forward(noise).image
    assert coarse.std() < 0.1 * fine.std()  # picking one voxel in 8 x 8 x 8 would keep all of it
    assert coarse.mean() == pytest.approx(fine.mean(), abs=0.01)


def test_labels_come_back_exactly_without_resampling():
    labels = blobs((20, 24, 28))
    affine = np.diag((-1.5, 1.0, -2.0, 1.0))
    work = preprocessor(grid=(31, 30, 28), fit="crop_or_pad")
    prepared = work.forward(scan(labels=labels, affine=affine))
    back = work.inverse_probabilities(one_hot(prepared.labels, 3), prepared.geometry)
    np.testing.assert_array_equal(back, labels)


def test_what_the_crop_cuts_comes_back_as_background_and_the_rest_exactly():
    labels = blobs((20, 24, 28))
    work = preprocessor(grid=(10, 30, 28), fit="crop_or_pad")
    prepared = work.forward(scan(labels=labels))
    expected = np.zeros_like(labels)
    expected[5:15] = labels[5:15]
    np.testing.assert_array_equal(work.inverse_probabilities(one_hot(prepared.labels, 3), prepared.geometry), expected)
    assert prepared.labels_lost == pytest.approx(1 - np.count_nonzero(expected) / np.count_nonzero(labels))


@pytest.mark.parametrize("grid, least", [((52, 45, 60), 0.99), ((40, 36, 44), 0.95)])
def test_labels_survive_the_way_there_and_back(grid, least):
    labels = blobs((48, 44, 52), seed=3)
    work = preprocessor(grid=grid)
    prepared = work.forward(scan(labels.shape, labels=labels))
    back = work.inverse_probabilities(one_hot(prepared.labels, 3), prepared.geometry)
    assert all(dice(back, labels, value) > least for value in (2, 7))


def test_without_crop_the_whole_axis_is_kept_and_short_ones_are_filled():
    labels = blobs((20, 24, 28))
    work = preprocessor(grid=(10, 32, 14), fit=("crop_or_pad", "crop_or_pad", "resample"))
    prepared = work.forward(scan(labels=labels), crop=False)
    assert prepared.image.shape == prepared.geometry.grid == (20, 32, 14)
    assert prepared.labels_lost == 0


def test_mirror_padding_mirrors_image_and_labels_alike():
    labels = blobs((20, 24, 28))
    case = scan(labels=labels, image=labels.astype(np.float32) * 10)
    prepared = preprocessor(grid=(30, 24, 28), fit="crop_or_pad", robust_percentiles=(0, 100)).forward(case)
    np.testing.assert_array_equal(prepared.labels[4::-1], prepared.labels[5:10])
    np.testing.assert_allclose(BLOBS.to_values(prepared.labels) / 7, prepared.image, atol=1e-6)


def test_ct_is_padded_with_air_and_background():
    case = scan(labels=blobs((20, 24, 28)))
    prepared = preprocessor("CT", grid=(30, 24, 28), fit="crop_or_pad").forward(case)
    for outside in (np.s_[:5], np.s_[25:]):
        assert not prepared.image[outside].any() and not prepared.labels[outside].any()


def test_hounsfield_units_come_back_within_rounding_and_clipped_to_the_window():
    rng = np.random.default_rng(0)
    image = rng.uniform(-1200, 2500, (8, 9, 10)).astype(np.float32)
    labels = blobs(image.shape)
    case = scan(image.shape, image=image, labels=labels, affine=np.diag((-1.0, -1.0, 2.0, 1.0)))
    work = preprocessor("CT", grid=(12, 12, 12), fit="crop_or_pad")
    prepared = work.forward(case)
    assert prepared.image.dtype == np.float32 and prepared.image.min() == 0 and prepared.image.max() == 1
    back = work.restore(
        prepared.image, prepared.labels, prepared.geometry, name="back", patient="p", source="prediction"
    )
    np.testing.assert_allclose(back.image, image.clip(-1000, 2000), atol=1e-3)
    np.testing.assert_array_equal(back.labels, labels)
    np.testing.assert_array_equal(back.affine, case.affine)


@pytest.mark.parametrize("gain, offset", [(0.01, 0.0), (37.0, -500.0), (1.0, 1e5)])
def test_mri_does_not_depend_on_the_units_of_the_scanner(gain, offset):
    case = scan()
    other = scan(image=(case.image.astype(np.float64) * gain + offset).astype(np.float32))
    work = preprocessor(grid=(16, 16, 16))
    np.testing.assert_allclose(work.forward(case).image, work.forward(other).image, atol=2e-3 if offset > 1e4 else 1e-4)


def test_a_generated_volume_lies_on_its_own_grid_centred_on_the_origin():
    geometry = Geometry.synthetic((6, 7, 8), (1.0, 2.0, 3.0), -1000, 2000)
    classes = np.random.default_rng(1).integers(0, 3, (6, 7, 8)).astype(np.uint8)
    work = preprocessor("CT", grid=(6, 7, 8))
    case = work.restore(
        np.full((6, 7, 8), 0.5, np.float32),
        classes,
        geometry,
        name="made",
        patient="synthetic-0",
        source="synthetic",
        attributes={"sex": "F"},
        provenance={"seed": 3},
    )
    assert np.all(case.image == 500) and case.spacing_mm == (1, 2, 3)
    np.testing.assert_array_equal(case.labels, BLOBS.to_values(classes))
    np.testing.assert_allclose(case.affine @ [2.5, 3, 3.5, 1], [0, 0, 0, 1])
    assert (case.source, case.attributes["sex"], case.provenance["seed"]) == ("synthetic", "F", 3)
    again = work.forward(case)  # a synthetic cohort is a cohort: preparing it gives the volume that was generated
    np.testing.assert_allclose(again.image, 0.5, atol=1e-6)
    np.testing.assert_array_equal(again.labels, classes)


def test_a_geometry_survives_json_to_the_last_bit():
    image, _, affine = oriented_ball((2, 0, 1), (1, -1, 1), np.zeros(3))
    geometry = (
        preprocessor(grid=(10, 11, 12), fit="crop_or_pad", spacing_mm=(3, 3, 3.3))
        .forward(scan(image.shape, affine, image=np.random.default_rng(0).random(image.shape)))
        .geometry
    )
    again = Geometry.from_dict(json.loads(json.dumps(geometry.to_dict())))
    assert again.to_dict() == geometry.to_dict()
    np.testing.assert_array_equal(again.affine, geometry.affine)
    with pytest.raises(InputError, match="a geometry needs the entries"):
        Geometry.from_dict({"grid": [1, 2, 3]})


def test_soft_tissue_takes_three_fifths_of_what_the_networks_see_and_comes_back_in_hu():
    hu = np.linspace(-1000, 2000, 31, dtype=np.float32)
    case = scan(image=np.tile(hu, (2, 2, 1)), affine=np.eye(4), shape=(2, 2, 31))
    work = preprocessor("CT", grid=(2, 2, 31), soft_tissue_hu=(-200, 600))
    prepared = work.forward(case)
    seen = prepared.image[0, 0]
    np.testing.assert_allclose(
        np.interp([-1000, -600, -200, 200, 600, 1300, 2000], hu, seen), [0, 0.1, 0.2, 0.5, 0.8, 0.9, 1], atol=1e-6
    )
    back = work.restore(prepared.image, None, prepared.geometry, name="b", patient="p", source="synthetic")
    np.testing.assert_allclose(back.image[0, 0], hu, atol=0.01)
    straight = preprocessor("CT", grid=(2, 2, 31)).forward(case).image[0, 0]
    np.testing.assert_allclose(straight, (hu + 1000) / 3000, atol=1e-6)


def test_scans_without_hounsfield_units_have_no_soft_tissue_curve():
    plain, curved = preprocessor(grid=(8, 8, 8)), preprocessor(grid=(8, 8, 8), soft_tissue_hu=(-200, 600))
    np.testing.assert_array_equal(plain.forward(scan()).image, curved.forward(scan()).image)


def test_the_digest_changes_with_whatever_changes_the_voxels():
    works = [
        preprocessor(),
        preprocessor(grid=(8, 8, 8)),
        preprocessor("CT"),
        preprocessor(table=HIPPOCAMPUS),
        preprocessor(robust_percentiles=(1, 99)),
        preprocessor("CT", soft_tissue_hu=(-200, 600)),
    ]
    assert len({work.digest() for work in works}) == len(works)
    assert preprocessor(intensity="mri", pad="mirror").digest() != preprocessor(intensity="ct").digest()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"grid": (8, 0, 8)}, "at least 1 voxel"),
        ({"fit": "crop_or_pad", "spacing_mm": (1, -1, 1)}, "spacing_mm must be above 0"),
        ({"spacing_mm": (1, 1, 1)}, "has no effect"),
        ({"window_hu": (500, -500)}, "lower < upper"),
        ({"robust_percentiles": (50, 5)}, "rise within 0 to 100"),
        ({"soft_tissue_hu": (-1000, 600)}, "soft_tissue_hu must rise inside window_hu"),
        ({"soft_tissue_hu": (600, -200)}, "soft_tissue_hu must rise inside window_hu"),
        ({"fit": "stretch"}, "resample"),
    ],
)
def test_nonsense_settings_are_refused_in_a_sentence(settings, message):
    with pytest.raises(ValidationError, match=message):
        PreprocessSettings(**settings)


def test_a_flat_mri_is_refused_by_name():
    with pytest.raises(InputError, match="case scan: the image has no contrast"):
        preprocessor().forward(scan(image=np.ones((4, 4, 4), np.float32), shape=(4, 4, 4)))


def test_wrong_shapes_and_diverged_networks_are_refused():
    work = preprocessor(grid=(8, 8, 8))
    geometry = work.forward(scan()).geometry
    with pytest.raises(RunError, match=r"expected class probabilities of shape \(3, 8, 8, 8\)"):
        work.inverse_probabilities(np.zeros((2, 8, 8, 8)), geometry)
    with pytest.raises(RunError, match="diverged"):
        work.inverse_probabilities(np.full((3, 8, 8, 8), np.nan), geometry)
    with pytest.raises(RunError, match="case x: the labels have shape"):
        work.restore(np.zeros((8, 8, 8)), np.zeros((8, 8, 9)), geometry, name="x", patient="p", source="prediction")


def read(image_path, labels_path, table):
    image, labels = nib.load(image_path), nib.load(labels_path)
    voxels = np.asarray(labels.dataobj).astype(np.uint8)
    affine = image.affine / [*np.linalg.norm(image.affine[:3, :3], axis=0), 1]
    affine = affine * [*image.header.get_zooms(), 1]  # ACDC's affines say 1 mm everywhere; its pixdim is right
    return scan(image=image.get_fdata(dtype=np.float32), labels=voxels, affine=affine, table=table)


def test_a_real_cardiac_ct_goes_to_the_grid_and_back(shared_data):
    table = LabelTable.from_mapping("three", {"heart": 1, "aorta": 2, "pulmonary_artery": 3})
    folder = shared_data / "ct"
    case = read(folder / "cardiac_cta.nii.gz", folder / "cardiac_cta_heart1_aorta2_pa3.nii.gz", table)
    native = preprocessor("CT", table, grid=(128, 128, 128), fit="crop_or_pad")
    prepared = native.forward(case, crop=False)
    assert prepared.image.shape == (128, 128, 164)
    back = native.restore(prepared.image, prepared.labels, prepared.geometry, name="b", patient="p", source="real")
    np.testing.assert_allclose(back.image, case.image.clip(-1000, 2000), atol=1e-3)
    np.testing.assert_array_equal(back.labels, case.labels)
    coarse = preprocessor("CT", table, grid=(96, 96, 96))
    prepared = coarse.forward(case)
    labels = coarse.inverse_probabilities(one_hot(prepared.labels, 4), prepared.geometry)
    assert all(dice(labels, case.labels, value) > 0.95 for value in (1, 2, 3))
    blood_hu = np.median(case.image[case.labels == 2])
    assert np.median(prepared.image[prepared.labels == 2]) * 3000 - 1000 == pytest.approx(blood_hu, abs=15)


def test_real_hippocampi_of_different_scanners_get_one_scale(shared_data):
    folder = shared_data / "msd_hippocampus"
    work = preprocessor("MRI", HIPPOCAMPUS, grid=(40, 56, 40), fit="crop_or_pad")
    medians = []
    for name in ("hippocampus_001", "hippocampus_003", "hippocampus_006"):  # largest values 139, 2777 and 3845
        case = read(folder / f"imagesTr/{name}.nii.gz", folder / f"labelsTr/{name}.nii.gz", HIPPOCAMPUS)
        prepared = work.forward(case)
        medians.append(np.median(prepared.image[prepared.labels > 0]))
        back = work.inverse_probabilities(one_hot(prepared.labels, 3), prepared.geometry)
        np.testing.assert_array_equal(back, case.labels)
    assert max(medians) - min(medians) < 0.3


def test_a_real_short_axis_stack_of_ten_slices_comes_back(shared_data):
    folder = shared_data / "acdc"
    case = read(folder / "images/patient001.nii.gz", folder / "masks/patient001_mask.nii.gz", ACDC)
    work = preprocessor("MRI", ACDC, grid=(160, 160, 16), fit="crop_or_pad", spacing_mm=(1.5, 1.5, 10.0))
    prepared = work.forward(case)
    back = work.inverse_probabilities(one_hot(prepared.labels, 4), prepared.geometry)
    assert prepared.labels_lost == 0
    assert all(dice(back, case.labels, value) > 0.95 for value in (1, 2, 3))
