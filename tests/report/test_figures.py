"""Pictures show the right patient the right way round."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from voxpair.report import figures


@pytest.mark.parametrize(
    ("view", "left", "top"),
    [("axial", (1, 0, 0), (0, 1, 0)), ("coronal", (1, 0, 0), (0, 0, 1)), ("sagittal", (0, 1, 0), (0, 0, 1))],
)
def test_radiological_display(view, left, top):
    """RAS+: x to the right, y to the front, z to the head; the patient's right and the front lie on the left."""
    ramp = np.stack(np.meshgrid(*(np.arange(n) for n in (5, 6, 7)), indexing="ij"), axis=-1)
    along_left, along_top = ramp @ np.array(left), ramp @ np.array(top)
    horizontal, vertical = figures.slice_of(along_left, view, 2), figures.slice_of(along_top, view, 2)
    assert (np.diff(horizontal, axis=1) == -1).all() and (np.diff(horizontal, axis=0) == 0).all()
    assert (np.diff(vertical, axis=0) == -1).all() and (np.diff(vertical, axis=1) == 0).all()


def test_the_slices_go_through_the_centre_of_mass_and_the_middle_where_nothing_is_labelled():
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[6:9, 0:3, 4] = 2
    assert figures.centre_voxel(labels) == (7, 1, 4)
    assert figures.centre_voxel(np.zeros((9, 7, 5))) == (4, 3, 2)


def test_a_tile_keeps_millimetres():
    tile = figures.tile_of(np.zeros((4, 5, 6)), None, (1.0, 2.0, 3.0), "coronal", (0, 0, 0))
    assert tile.image.shape == (6, 4) and tile.size_mm == (4.0, 18.0)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA")).astype(int)


def largest_piece(mask):
    """Places of the box, without the letters that stand at the edges."""
    pieces, _ = ndimage.label(mask)
    return np.argwhere(pieces == np.bincount(pieces.ravel())[1:].argmax() + 1)


def test_labels_lie_exactly_over_the_image_they_belong_to():
    """A bright box and its label must cover the same pixels, in every view, with anisotropic voxels."""
    image = np.zeros((20, 24, 16))
    image[4:12, 8:20, 2:10] = 1
    classes = (image > 0).astype(np.uint8)
    tiles = [figures.tile_of(image, classes, (1, 1.5, 2), view, (8, 14, 6)) for view in figures.VIEWS]
    layers = figures.tile_sheet([tiles], ["case"], figures.VIEWS, ["#ff0000"])
    grey, overlay = pixels(layers.images), pixels(layers.labels)
    assert grey.shape == overlay.shape
    strip = round(0.26 * 150) * 2 + 12  # below the words and the letter at the top edge
    bright, covered = grey[strip:, :, 0] > 200, overlay[strip:, :, 3] > 0
    for third in np.array_split(np.arange(grey.shape[1]), 3):
        box, over = (largest_piece(mask[:, third]) for mask in (bright, covered))
        middles = [(where.min(axis=0) + where.max(axis=0)) / 2 for where in (box, over)]
        sizes = [np.ptp(where, axis=0) for where in (box, over)]
        assert np.abs(middles[0] - middles[1]).max() <= 2
        assert ((sizes[1] - sizes[0] >= 0) & (sizes[1] - sizes[0] <= 16)).all()  # the image's edge is interpolated
    red = overlay[overlay[..., 3] > 0][:, :3].mean(axis=0)
    assert red[0] > 200 > 60 > red[1:].max()


def test_a_label_at_the_border_has_a_closed_contour():
    classes = np.ones((10, 10, 10), np.uint8)
    tile = figures.tile_of(np.zeros((10, 10, 10)), classes, (1, 1, 1), "axial", (5, 5, 5))
    overlay = pixels(figures.tile_sheet([[tile]], ["c"], ["axial"], ["#00ff00"]).labels)
    size = overlay.shape[1]
    first_row = round(2 * 0.26 * 150)
    edges = (overlay[rows, 5 : size - 5, 3].max(axis=0) for rows in (slice(first_row, first_row + 8), slice(-8, None)))
    middle = overlay[first_row + size // 2, size // 2, 3]
    assert all(np.median(edge) > 1.5 * middle > 0 for edge in edges)
