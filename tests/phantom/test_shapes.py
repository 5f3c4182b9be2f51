"""Signed distances, smooth unions and the deformation, against closed forms."""

import numpy as np
import pytest

from voxpair.phantom.shapes import Ellipsoid, Pose, Tube, VoxelGrid, Warp, smooth_cut, smooth_union

AXES = [np.arange(-30.0, 31.0, 2.0)] * 3


def volume_ml(field, voxel_mm=2.0):
    return float(np.clip(0.5 - field / voxel_mm, 0, 1).sum()) * voxel_mm**3 / 1000


def test_an_ellipsoid_has_its_volume_wherever_its_axes_point():
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    field = VoxelGrid(AXES).draw(Ellipsoid((1, 2, 3), (10, 14, 20), turned))
    assert volume_ml(field) == pytest.approx(4 / 3 * np.pi * 10 * 14 * 20 / 1000, rel=0.02)


def test_a_tube_is_a_cylinder_with_two_half_balls():
    field = VoxelGrid(AXES).draw(Tube([(-10, 0, 0), (10, 0, 0)], [8, 8]))
    assert volume_ml(field) == pytest.approx((np.pi * 64 * 20 + 4 / 3 * np.pi * 512) / 1000, rel=0.02)


def test_a_pose_turns_and_scales_distances_too():
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    plain = VoxelGrid(AXES).draw(Ellipsoid((0, 20, 0), (6, 6, 6)))
    posed = VoxelGrid(AXES, pose=Pose(quarter, 2.0)).draw(Ellipsoid((10, 0, 0), (3, 3, 3)))
    near = plain < 8
    np.testing.assert_allclose(posed[near], plain[near], atol=1e-3)


def test_smooth_union_and_cut_are_each_others_mirror_and_meet_the_sharp_ones_far_away():
    a, b = np.array([0.0, 5.0, 1.0]), np.array([9.0, -5.0, 1.2])
    np.testing.assert_allclose(smooth_union(a, b, 2)[:2], np.minimum(a, b)[:2])
    assert smooth_union(a, b, 2)[2] < 1.0
    np.testing.assert_allclose(smooth_cut(a, b, 2), -smooth_union(-a, -b, 2))


def test_an_ellipsoid_is_deepest_at_its_centre():
    field = VoxelGrid(AXES).draw(Ellipsoid((0, 0, 0), (8, 12, 16)))
    assert field.min() == field[15, 15, 15] == -8


def test_a_shape_outside_the_grid_leaves_it_far():
    assert (VoxelGrid(AXES).draw(Tube([(500, 0, 0), (510, 0, 0)], [5, 5])) > 20).all()


def test_the_deformation_has_the_asked_size_and_can_be_undone():
    axes = [np.arange(-60.0, 61.0, 4.0)] * 3
    for seed in range(5):
        shift = Warp.random(np.random.default_rng(seed), size_mm=3.0, width_mm=30.0).displacement(axes)
        assert 1.2 < shift.std() < 6.0
        gradient = np.stack([np.stack(np.gradient(part, 4.0)) for part in shift])
        jacobian = np.linalg.det(np.moveaxis(gradient, (0, 1), (-2, -1)) + np.eye(3))
        assert jacobian.min() > 0.1


def test_places_are_found_again_through_pose_deformation_and_shift():
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    axes = [np.arange(-60.0, 61.0, 3.0)] * 3
    warp = Warp.random(np.random.default_rng(1), size_mm=2.5, width_mm=32.0)
    grid = VoxelGrid(axes, warp, Pose(quarter, 1.2))
    grid = grid.moved(
        np.array([0.0, 0.0, 4.0], np.float32)[:, None, None, None] * np.ones((1, *grid.shape), np.float32)
    )
    voxels = np.array([[10, 20, 15], [25, 12, 30], [20, 20, 20]])
    places = grid.points[:, *voxels.T].T.astype(float)
    np.testing.assert_allclose(grid.locate(places).T, voxels, atol=0.05)


def test_a_moved_grid_draws_the_shape_elsewhere():
    grid = VoxelGrid(AXES)
    moved = grid.moved(np.full((3, *grid.shape), 4.0, np.float32))
    ball = Ellipsoid((0, 0, 0), (6, 6, 6))
    assert np.unravel_index(moved.draw(ball).argmin(), grid.shape) == (13, 13, 13)
    assert np.unravel_index(grid.draw(ball).argmin(), grid.shape) == (15, 15, 15)
