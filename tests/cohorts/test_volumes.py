"""Reading and writing volumes: geometry, whole numbers, and refusal of what cannot be trusted."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from voxpair.cohorts import volumes
from voxpair.core.errors import InputError, RunError

ROTATION = nib.eulerangles.euler2mat(0.1, 0.2, 0.3)
OBLIQUE = nib.affines.from_matvec(ROTATION @ np.diag([0.7, 0.8, 5.0]), [12.5, -40.25, 7.0])
VOXELS = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


def save_raw(path, voxels, *, sform=None, qform=None, pixdim=None, **fields):
    """Write a header that says exactly this, contradictions included; nibabel's own save would reconcile them."""
    header = nib.Nifti1Header()
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    if qform is not None:
        header.set_qform(qform, 1)
    if sform is not None:
        header.set_sform(sform, 2)
    if pixdim is not None:
        header["pixdim"][1:4] = pixdim
    for name, value in {"magic": b"n+1", "vox_offset": 352, **fields}.items():
        header[name] = value
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4) + voxels.tobytes(order="F")))
    return path


def spacing_mm(affine):
    return np.linalg.norm(affine[:3, :3], axis=0)


@pytest.mark.parametrize("name", ["a.nii.gz", "b.nii"])
def test_round_trip_keeps_values_and_oblique_geometry(tmp_path, name):
    image = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    volumes.write_image(tmp_path / name, image, OBLIQUE)
    found, affine, notes = volumes.read_image(tmp_path / name)
    np.testing.assert_array_equal(found, image)
    np.testing.assert_allclose(affine, OBLIQUE, atol=1e-5)
    assert found.dtype == np.float32 and notes == []
    header = nib.load(tmp_path / name).header  # programs that prefer the qform see the same place
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-4)


@pytest.mark.parametrize(
    ("value", "stored"), [(-1024, "int16"), (32767, "int16"), (32768, "float32"), (-32769, "float32"), (0.5, "float32")]
)
def test_images_are_stored_as_int16_only_where_nothing_is_lost(tmp_path, value, stored):
    image = np.full((2, 2, 2), value, np.float32)
    volumes.write_image(tmp_path / "a.nii.gz", image, np.eye(4))
    assert volumes.stored_type(tmp_path / "a.nii.gz") == stored
    np.testing.assert_array_equal(volumes.read_image(tmp_path / "a.nii.gz")[0], image)


def test_unit_sform_with_another_pixdim_takes_the_spacing_of_pixdim(tmp_path):  # ACDC's quirk
    path = save_raw(tmp_path / "a.nii.gz", VOXELS, sform=np.diag([-1, -1, 1, 1]), pixdim=(1.4, 1.4, 10))
    _, affine, notes = volumes.read_image(path)
    np.testing.assert_allclose(affine, np.diag([-1.4, -1.4, 10, 1]), atol=1e-6)
    assert notes == [volumes.SPACING_FROM_PIXDIM]


def test_unit_sform_takes_a_qform_whole(tmp_path):
    path = save_raw(tmp_path / "a.nii.gz", VOXELS, sform=np.eye(4), qform=OBLIQUE)
    _, affine, notes = volumes.read_image(path)
    np.testing.assert_allclose(affine, OBLIQUE, atol=1e-4)
    assert notes == [volumes.SPACING_FROM_QFORM]


def test_legitimate_sforms_are_not_touched(tmp_path):
    unit = nib.affines.from_matvec(ROTATION, [1, 2, 3])
    path = save_raw(tmp_path / "a.nii.gz", VOXELS, sform=unit, pixdim=(1, 1, 1))
    np.testing.assert_allclose(volumes.read_image(path)[1], unit, atol=1e-6)
    assert volumes.read_image(path)[2] == []
    path = save_raw(tmp_path / "b.nii.gz", VOXELS, sform=OBLIQUE, pixdim=(1, 1, 1))  # a forgotten pixdim
    np.testing.assert_allclose(volumes.read_image(path)[1], OBLIQUE, atol=1e-5)
    assert volumes.read_image(path)[2] == [volumes.PIXDIM_IGNORED]
    path = save_raw(tmp_path / "c.nii.gz", VOXELS, sform=np.eye(4), pixdim=(1000, 1.4, 10))  # pixdim makes no sense
    np.testing.assert_allclose(spacing_mm(volumes.read_image(path)[1]), 1)


def test_no_orientation_at_all_is_said(tmp_path):
    path = save_raw(tmp_path / "a.nii.gz", VOXELS, pixdim=(2, 2, 3))
    _, affine, notes = volumes.read_image(path)
    np.testing.assert_allclose(spacing_mm(affine), (2, 2, 3))
    assert notes == [volumes.NO_ORIENTATION]


def test_microns_become_millimetres(tmp_path):
    path = save_raw(tmp_path / "a.nii.gz", VOXELS, sform=np.diag([5, 5, 20, 1]), pixdim=(5, 5, 20), xyzt_units=3)
    _, affine, notes = volumes.read_image(path)
    np.testing.assert_allclose(spacing_mm(affine), (0.005, 0.005, 0.02), rtol=1e-6)
    assert notes == [volumes.UNIT_CONVERTED]


def test_slope_and_intercept_are_applied(tmp_path):
    path = save_raw(tmp_path / "a.nii.gz", VOXELS, sform=np.eye(4), scl_slope=2, scl_inter=-1024)
    np.testing.assert_array_equal(volumes.read_image(path)[0], VOXELS * 2.0 - 1024)


def test_mgz_is_read(tmp_path):
    nib.save(nib.MGHImage(VOXELS, np.diag([-1.0, 1.0, 2.0, 1.0])), tmp_path / "a.mgz")
    labels, affine, _ = volumes.read_labels(tmp_path / "a.mgz")
    np.testing.assert_array_equal(labels, VOXELS)
    np.testing.assert_allclose(spacing_mm(affine), (1, 1, 2))


def test_one_volume_in_4d_is_squeezed_and_two_are_refused(tmp_path):
    path = save_raw(tmp_path / "a.nii.gz", VOXELS[..., None], sform=np.eye(4), pixdim=(1, 1, 1))
    image, _, notes = volumes.read_image(path)
    assert image.shape == (3, 4, 5) and notes == [volumes.SQUEEZED]
    path = save_raw(tmp_path / "b.nii.gz", np.stack([VOXELS, VOXELS], -1), sform=np.eye(4))
    with pytest.raises(InputError, match=r"b\.nii\.gz: expected one 3D volume, got shape \(3, 4, 5, 2\) \(2 volumes\)"):
        volumes.read_image(path)
    path = save_raw(tmp_path / "c.nii.gz", VOXELS[0], sform=np.eye(4))
    with pytest.raises(InputError, match="expected one 3D volume"):
        volumes.read_image(path)


def test_whole_float_labels_become_integers_and_mixtures_are_refused(tmp_path):
    labels = (VOXELS % 3).astype(np.float32)
    path = save_raw(tmp_path / "a.nii.gz", labels, sform=np.eye(4), pixdim=(1, 1, 1))
    found, _, notes = volumes.read_labels(path)
    assert found.dtype == np.uint8 and notes == [volumes.WHOLE_FLOATS]
    np.testing.assert_array_equal(found, labels)
    labels[0, 0, 0] = 1.5
    path = save_raw(tmp_path / "b.nii.gz", labels, sform=np.eye(4))
    with pytest.raises(InputError, match=r"b\.nii\.gz: 1 voxels hold labels that are not whole numbers, such as 1\.5"):
        volumes.read_labels(path)
    labels[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="not whole numbers, such as nan"):
        volumes.read_labels(save_raw(tmp_path / "c.nii.gz", labels, sform=np.eye(4)))


def test_labels_above_255_are_kept_and_negative_ones_refused(tmp_path):
    values = np.full((2, 2, 2), 2035, np.int32)
    assert volumes.read_labels(save_raw(tmp_path / "a.nii.gz", values, sform=np.eye(4)))[0].max() == 2035
    with pytest.raises(InputError, match="label value -1 is negative"):
        volumes.read_labels(save_raw(tmp_path / "b.nii.gz", values * 0 - 1, sform=np.eye(4)))
    with pytest.raises(InputError, match="whole numbers from 0 to 255"):
        volumes.write_labels(tmp_path / "c.nii.gz", values, np.eye(4))


def test_nan_and_infinite_voxels_are_counted(tmp_path):
    image = VOXELS.astype(np.float32)
    image[0, 0, :3] = np.nan, np.inf, -np.inf
    with pytest.raises(InputError, match=r"a\.nii\.gz has 3 voxels that are NaN or infinite"):
        volumes.read_image(save_raw(tmp_path / "a.nii.gz", image, sform=np.eye(4)))


@pytest.mark.parametrize("damage", ["truncated", "checksum", "text", "empty", "short"])
def test_damaged_files_are_named(tmp_path, damage):
    path = tmp_path / "scan.nii.gz"
    volumes.write_image(path, np.random.default_rng(0).normal(size=(8, 8, 8)), np.eye(4))
    content = path.read_bytes()
    path.write_bytes(
        {
            "truncated": content[: len(content) // 2],
            "checksum": content[:-8] + bytes([content[-8] ^ 1]) + content[-7:],  # every voxel reads; only CRC tells
            "text": b"<html>404</html>",
            "empty": b"",
            "short": gzip.compress(gzip.decompress(content)[:-100]),
        }[damage]
    )
    with pytest.raises(InputError, match=r"cannot read .*scan\.nii\.gz: .*damaged"):
        volumes.read_image(path)


def test_missing_files_and_unknown_kinds_are_named(tmp_path):
    with pytest.raises(InputError, match=r"there is no file .*none\.nii\.gz"):
        volumes.read_image(tmp_path / "none.nii.gz")
    with pytest.raises(InputError, match=r"a\.png: unknown kind of file; expected one of \.nii\.gz"):
        volumes.read_image(tmp_path / "a.png")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.nii.gz"
    volumes.write_image(path, VOXELS, np.eye(4))
    before = path.read_bytes()

    def full_disk(image, name):
        name.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(volumes.nib, "save", full_disk)
    with pytest.raises(RunError, match="No space left on device"):
        volumes.write_image(path, VOXELS + 1, np.eye(4))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]


def test_a_sheared_affine_is_kept_and_no_qform_contradicts_it(tmp_path):
    sheared = np.eye(4)
    sheared[0, 2] = 0.3  # gantry tilt
    volumes.write_image(tmp_path / "a.nii.gz", VOXELS, sheared)
    np.testing.assert_allclose(volumes.read_image(tmp_path / "a.nii.gz")[1], sheared, atol=1e-6)
    assert int(nib.load(tmp_path / "a.nii.gz").header["qform_code"]) == 0
    assert not volumes.is_orthonormal(sheared) and volumes.is_orthonormal(OBLIQUE)


def test_count_values_agrees_for_small_and_large_values():
    labels = np.random.default_rng(0).integers(0, 5, (6, 6, 6))
    small = volumes.count_values(labels)
    large = volumes.count_values(labels + (1 << 20))
    assert large == {value + (1 << 20): count for value, count in small.items()} and sum(small.values()) == 216


def test_content_mark_follows_the_voxels_not_the_file(tmp_path):
    for folder, values in (("a", VOXELS), ("b", VOXELS), ("c", VOXELS[::-1])):
        (tmp_path / folder).mkdir()
        for name in ("x.nii.gz", "x.nii"):
            volumes.write_image(tmp_path / folder / name, values, np.eye(4))
    for name in ("x.nii.gz", "x.nii"):
        a, b, c = (volumes.content_mark(tmp_path / folder / name) for folder in "abc")
        assert a == b != c


def test_real_acdc_scans_get_their_true_spacing(shared_data):
    image, affine, notes = volumes.read_image(shared_data / "acdc" / "images" / "patient001.nii.gz")
    np.testing.assert_allclose(spacing_mm(affine), (1.5625, 1.5625, 10))
    assert image.shape == (216, 256, 10) and notes == [volumes.SPACING_FROM_PIXDIM]
