"""The pictures of ``docs/phantom.md``: PNGs under ``docs/images/``.

    python benchmarks/phantom/pictures.py --real FOLDER

FOLDER is that of ``comparison.py``, whose ``comparison.json`` the last picture is drawn from. All grey values are a
window from -150 to 550 HU unless a picture's caption says otherwise. Slices are shown as radiologists look at them:
the patient's right on the left, front or head up.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from comparison import HERE, patient_like_the_real_one, phantom_settings, real_scan
from matplotlib.colors import to_rgb
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom

from voxpair.core.labels import CARDIAC8, THORAX7, LabelTable
from voxpair.core.run import atomic_path, read_json
from voxpair.phantom import HeartParameters, PhantomSettings, make_phantom
from voxpair.phantom.acquisition import Scan, ScanSettings, acquire
from voxpair.phantom.contrast import draw_levels
from voxpair.phantom.heart_cohort import voxel_axes
from voxpair.phantom.population import draw_anatomy

IMAGES = HERE.parents[1] / "docs" / "images"
WINDOW_HU = (-150.0, 550.0)
FINE = PhantomSettings(grid=(224, 224, 150), field_of_view_mm=(190, 190, 150), noise_hu=20, labels="clean")
PHYSICAL = FINE.model_copy(update={"mode": "physical"})


def patient(seed: int = 7, **changes) -> HeartParameters:
    """Return the patient of most pictures, changed as wanted."""
    wanted = {"sex": "M", "contrast": "arterial", "metal": "no", "scan_range": "cardiac"}
    wanted |= {name: changes.pop(name) for name in list(changes) if name in wanted}
    drawn = draw_anatomy(np.random.default_rng(seed), **wanted)
    return replace(drawn, offset_right_mm=0.0, offset_front_mm=0.0, offset_head_mm=0.0, **changes)


def slab(p: HeartParameters, settings: PhantomSettings, height_mm: float, scan: Scan | None = None) -> np.ndarray:
    """Return the axial slice (X, Y) at ``height_mm`` above the middle of the field, without making the others."""
    right, front, head = voxel_axes(p, settings)
    thin = head.mean() + height_mm + np.arange(-2.5, 3.5)
    return acquire([right, front, thin], p, settings, scan or Scan(seed=1)).image[:, :, 2]


def grey(plane: np.ndarray, window: Sequence[float] = WINDOW_HU) -> np.ndarray:
    """Return a plane (right, up) as rows of grey values, the patient's right on the left."""
    low, high = window
    return (np.clip((plane[::-1, ::-1].T - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def coloured(plane: np.ndarray, labels: np.ndarray, table: LabelTable) -> np.ndarray:
    """Return the same in colours (rows, columns, 3) with structures laid over it."""
    colours = np.zeros((256, 3))
    for structure in table.structures:
        colours[structure.value] = to_rgb(structure.colour)
    base = np.repeat(grey(plane)[:, :, None], 3, axis=2) / 255
    over = colours[labels[::-1, ::-1].T]
    return (255 * np.where(over.any(axis=2, keepdims=True), 0.55 * base + 0.45 * over, base)).astype(np.uint8)


def views(volume: np.ndarray, at: Sequence[int], spacing_mm: Sequence[float], order: int = 1) -> list[np.ndarray]:
    """Return axial, coronal and sagittal planes through voxel ``at``, as large along Z as along X."""
    stretch = (1, spacing_mm[2] / spacing_mm[0])
    planes = volume[:, :, at[2]], volume[:, at[1]], volume[at[0]][::-1]
    return [planes[0], *(zoom(plane, stretch, order=order) for plane in planes[1:])]


def row(pictures: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Return pictures side by side, shorter ones in the middle of the height."""
    height = max(picture.shape[0] for picture in pictures)
    parts = []
    for picture in pictures:
        above = (height - picture.shape[0]) // 2
        rest = [(above, height - picture.shape[0] - above), (0, gap)] + [(0, 0)] * (picture.ndim - 2)
        parts.append(np.pad(picture, rest, constant_values=255))
    return np.concatenate(parts, 1)


def column(rows: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Return rows of pictures under one another."""
    width = max(part.shape[1] for part in rows)
    filled = [
        np.pad(p, [(0, gap), (0, width - p.shape[1])] + [(0, 0)] * (p.ndim - 2), constant_values=255) for p in rows
    ]
    return np.concatenate(filled)


def save(name: str, picture: np.ndarray) -> None:
    """Write a PNG of 48 greys or 256 colours: a third of the size, and no eye sees the difference."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with atomic_path(IMAGES / f"phantom-{name}.png") as path:
        Image.fromarray(picture).quantize(48 if picture.ndim == 2 else 256, dither=Image.Dither.NONE).save(
            path, optimize=True
        )
    print(name, picture.shape, f"{(IMAGES / f'phantom-{name}.png').stat().st_size / 1000:.0f} kB")


def three_views() -> None:
    made = make_phantom(patient(), FINE)
    spacing_mm = np.diag(made.affine)[:3]
    at = 112, 120, 78
    planes = views(made.image, at, spacing_mm)
    expert, thorax = (views(drawn, at, spacing_mm, order=0) for drawn in (made.expert, made.thorax))
    over = [
        row([coloured(plane, labels, table) for plane, labels in zip(planes, drawn)])
        for drawn, table in ((expert, CARDIAC8), (thorax, THORAX7))
    ]
    save("views", column([row([np.repeat(grey(plane)[:, :, None], 3, 2) for plane in planes]), *over]))


def contrast_states() -> None:
    made = []
    for state in ("arterial", "mixed", "late_venous", "non_contrast"):
        levels = draw_levels(state, np.random.default_rng(5))
        made.append(slab(patient(contrast=state, levels_hu=levels), FINE, 4.0))
    save("contrast", row([grey(plane) for plane in made]))


def kernels() -> None:
    def close(**changes) -> np.ndarray:
        plane = slab(patient(), PHYSICAL.model_copy(update=changes), 8.0)
        return grey(plane[50:162, 70:182]).repeat(2, 0).repeat(2, 1)

    first = [close(kernel="soft"), close(kernel="sharp"), close(dose=0.2)]
    fast = [close(kernel="soft", mode="fast"), close(kernel="sharp", mode="fast"), close(dose=0.2, mode="fast")]
    save("kernels", column([row(first), row(fast)]))


def metal() -> None:
    kinds = ("lead", "wires", "valve", "stent")
    heights = {kind: height_of_metal(kind) for kind in kinds} | {"lead": -16.0}  # where it enters the right ventricle
    rows = [
        row([grey(slab(patient(metal=kind), settings, heights[kind])) for kind in kinds])
        for settings in (PHYSICAL, FINE)
    ]
    save("metal", column(rows))


def height_of_metal(kind: str) -> float:
    """Return the height in mm above the middle of the field at which most metal is seen."""
    coarse = FINE.model_copy(update={"grid": (64, 64, 50), "noise_hu": 0.0})
    marked, plain = (make_phantom(patient(metal=metal), coarse).image for metal in (kind, "no"))
    brighter = (marked - plain > 100).sum(axis=(0, 1))
    return float((np.argmax(brighter) - 24.5) * 3.0)


def motion() -> None:
    moving = Scan(heart_rate_bpm=90, window_ms=175, seed=1)
    p = patient(phase=0.42)
    planes = [slab(p, PHYSICAL, -4.0, Scan(seed=1)), slab(p, PHYSICAL, -4.0, moving), slab(p, FINE, -4.0, moving)]
    steps = Scan(steps=((38.0, 3.5, -2.0), (76.0, -2.5, 2.5), (114.0, 2.0, 2.0)), seed=1)
    stepped = make_phantom(p, FINE, steps)
    coronal = views(stepped.image, (112, 130, 70), np.diag(stepped.affine)[:3])[1]
    save("motion", row([grey(plane) for plane in (*planes, coronal)]))


def appendages() -> None:
    """Draw the surfaces of left atrium and appendage, seen from the left."""
    rows = []
    for seed in (3, 8):
        shown = []
        for morphology, shape in LAA_SHAPES.items():
            p = patient(seed, laa_morphology=morphology, laa_volume_ml=6.0, **shape)
            coarse = make_phantom(p, FINE.model_copy(update={"grid": (64, 64, 50), "noise_hu": 0.0}))
            voxels = np.argwhere(coarse.clean == CARDIAC8.value_of("LAA")).mean(axis=0)
            centre = coarse.affine[:3, :3] @ voxels + coarse.affine[:3, 3]
            near = [middle + np.arange(-half, half, 0.45) for middle, half in zip(centre, (45, 45, 36))]
            shown.append(surface(acquire(near, p, QUIET, Scan()).labels))
        rows.append(row(shown))
    save("appendage", column(rows))


QUIET = ScanSettings(noise_hu=0)
LAA_SHAPES = {
    "windsock": {"laa_bend_deg": 35.0, "laa_lobes": 1, "laa_length_mm": 40.0},
    "chicken_wing": {"laa_bend_deg": 95.0, "laa_lobes": 2, "laa_length_mm": 42.0},
    "cauliflower": {"laa_bend_deg": 25.0, "laa_lobes": 4, "laa_length_mm": 29.0},
    "cactus": {"laa_bend_deg": 30.0, "laa_lobes": 3, "laa_length_mm": 34.0},
}


def surface(labels: np.ndarray) -> np.ndarray:
    """Return a shaded picture of LA and LAA: how far the first voxel is, lit from above."""
    depths, colours = [], []
    for name in ("LA", "LAA"):
        hit = gaussian_filter((labels == CARDIAC8.value_of(name)).astype(np.float32), 1.0) > 0.4
        depths.append(np.where(hit.any(0), hit.argmax(0), 10_000).astype(float))
        colours.append(to_rgb(next(s.colour for s in CARDIAC8.structures if s.name == name)))
    depth = np.minimum(*depths)
    seen = depth < 10_000
    smooth = gaussian_filter(np.where(seen, depth, depth[seen].max()), 0.7)
    slopes = np.gradient(smooth)
    light = (0.5 * slopes[0] - 0.7 * slopes[1] + 1) / np.sqrt(slopes[0] ** 2 + slopes[1] ** 2 + 1) / 1.3
    colour = np.where((depths[1] <= depths[0])[..., None], colours[1], colours[0])
    shaded = np.where(seen[..., None], colour * np.clip(light, 0.15, 1)[..., None], 1)
    return (255 * np.clip(shaded, 0, 1))[:, ::-1].transpose(1, 0, 2).astype(np.uint8)


def beside_real(folder: Path) -> None:
    """Draw four chambers, aortic valve, pulmonary artery and a coronal view of both scans, at their own 1.5 mm."""
    image, _, spacing_mm = real_scan(folder)
    noise_hu = read_json(HERE / "comparison.json")["noise_hu"]
    made = make_phantom(patient_like_the_real_one(), phantom_settings(image.shape, spacing_mm, "physical", noise_hu))
    rows = []
    for volume, heights in ((image, (60, 85, 108)), (made.image, HEIGHTS)):
        planes = [volume[:, :, k] for k in heights] + [volume[:, 72, 22:148]]
        rows.append(row([grey(plane).repeat(2, 0).repeat(2, 1) for plane in planes]))
    save("real", column(rows))


HEIGHTS = (74, 90, 118)


def magnetic() -> None:
    settings = FINE.model_copy(update={"modality": "mr"})
    made = make_phantom(patient(), settings)
    planes = views(made.image, (112, 120, 78), np.diag(made.affine)[:3])
    save("magnetic", row([grey(plane, (0.0, 650.0)) for plane in planes]))


def statistics() -> None:
    """Plot ``comparison.json``: histograms per region, and noise power."""
    found = read_json(HERE / "comparison.json")
    names = {"real": "one real CT", "fast": "phantom, fast", "physical": "phantom, physical"}
    colours = {"real": "#333333", "fast": "#ee7733", "physical": "#4477aa"}
    edges = np.array(found["edges_hu"])
    regions = list(found["histograms"]["real"])
    figure, places = plt.subplots(2, 4, figsize=(11, 4.6), layout="constrained")
    for place, region in zip(places.ravel(), regions):
        for name in names:
            shares = np.array(found["histograms"][name][region]["shares"])
            place.stairs(shares, edges, color=colours[name], label=names[name])
        used = np.flatnonzero(sum(np.array(found["histograms"][n][region]["shares"]) > 0.003 for n in names))
        place.set(title=region, xlim=(edges[used[0]] - 20, edges[used[-1] + 1] + 20), yticks=[], xlabel="HU")
    power = places.ravel()[len(regions)]
    for name in names:
        spectrum = found["noise"][name]
        power.plot(spectrum["frequency_per_mm"], spectrum["power_hu2_mm2"], "o-", color=colours[name])
    power.set(title="noise power, HU² mm²", xlabel="cycles per mm", ylim=(0, None))
    for place in places.ravel()[len(regions) + 1 :]:
        place.axis("off")
    figure.legend(*places.ravel()[0].get_legend_handles_labels(), loc="lower right")
    stream = io.BytesIO()
    figure.savefig(stream, dpi=90)
    plt.close(figure)
    save("statistics", np.asarray(Image.open(stream).convert("RGB")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="names of the functions that draw")
    given = parser.parse_args()
    drawn = [three_views, contrast_states, kernels, metal, motion, appendages, magnetic, statistics]
    for draw in drawn:
        if not given.only or draw.__name__ in given.only:
            draw()
    if not given.only or "beside_real" in given.only:
        beside_real(given.real)


if __name__ == "__main__":
    main()
