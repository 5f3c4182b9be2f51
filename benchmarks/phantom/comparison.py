"""How bright and how noisy a phantom is beside a real scan; writes ``comparison.json``.

    python benchmarks/phantom/comparison.py --real FOLDER

FOLDER holds ``cardiac_cta.nii.gz`` and ``cardiac_cta_heart1_aorta2_pa3.nii.gz`` (TotalSegmentator's test files,
Apache-2.0). The phantoms are scanned on the grid of the real scan, in the fast and in the physical mode, with the
noise and the levels of blood that it has. Histograms are of the same regions in both: inside the outlines of heart,
aorta and pulmonary artery (two voxels away from them), and fat, muscle and lung around the heart, told apart by HU.

The noise power spectrum is that of squares of 8 x 8 voxels in the pulmonary artery, without their mean and slope:
the only region of the real scan that is evenly bright. It is coarse: voxels are 1.5 mm.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import binary_dilation, binary_erosion

from voxpair.core.labels import CARDIAC8
from voxpair.core.run import versions, write_json
from voxpair.phantom import HeartParameters, PhantomSettings, make_phantom
from voxpair.phantom.population import draw_anatomy

HERE = Path(__file__).parent
EDGES_HU = np.arange(-1000, 1001, 20)
SQUARE = 8
FREQUENCIES_PER_MM = np.arange(0.02, 0.36, 0.04)
AROUND_HU = {"lung": (-1024, -500), "fat": (-150, -40), "muscle": (0, 120)}
HEART = ("MYO", "LA", "LV", "RA", "RV", "LAA")


def real_scan(folder: Path) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Return the real image, its regions and its voxel size."""
    image, labels = (
        nib.as_closest_canonical(nib.load(folder / f"cardiac_cta{name}.nii.gz")) for name in ("", "_heart1_aorta2_pa3")
    )
    values = np.asarray(labels.dataobj).round().astype(int)
    regions = {name: values == value for value, name in enumerate(("heart", "aorta", "pulmonary"), 1)}
    return image.get_fdata(dtype=np.float32), regions, np.array(image.header.get_zooms()[:3], float)


def patient_like_the_real_one() -> HeartParameters:
    """Return a phantom man with a large heart whose blood is as bright as the real scan's."""
    drawn = draw_anatomy(np.random.default_rng(7), sex="M", contrast="mixed", metal="no", scan_range="cardiac")
    blood = {"LV": 470.0, "LA": 480.0, "AO": 470.0, "PA": 550.0, "RV": 560.0, "RA": 560.0, "LAA": 460.0, "SVC": 700.0}
    sizes = {"lv_volume_ml": 160.0, "rv_volume_ml": 200.0, "la_volume_ml": 125.0, "ra_volume_ml": 125.0}
    return replace(drawn, **sizes, levels_hu={**drawn.levels_hu, **blood, "MYO": 120.0, "streaming": 70.0})


def phantom_settings(shape: tuple[int, ...], spacing_mm: np.ndarray, mode: str, noise_hu: float) -> PhantomSettings:
    """Return the scan that has the grid of the real one."""
    field_mm = tuple(float(n * step) for n, step in zip(shape, spacing_mm))
    return PhantomSettings(grid=shape, field_of_view_mm=field_mm, mode=mode, noise_hu=noise_hu, labels="clean")


def phantom_regions(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the same regions of a phantom."""
    values = {"heart": [CARDIAC8.value_of(name) for name in HEART]}
    values |= {"aorta": [CARDIAC8.value_of("AO")], "pulmonary": [CARDIAC8.value_of("PA")]}
    return {name: np.isin(labels, chosen) for name, chosen in values.items()}


def histograms(image: np.ndarray, regions: dict[str, np.ndarray]) -> dict[str, dict]:
    """Return per region the shares of voxels per 20 HU, median and quartiles."""
    inner = {name: image[binary_erosion(region, iterations=2)] for name, region in regions.items()}
    everything = np.logical_or.reduce(list(regions.values()))
    near = binary_dilation(everything, iterations=16) & ~binary_dilation(everything, iterations=2)
    for name, (low, high) in AROUND_HU.items():
        inner[name] = image[near & binary_erosion((image > low) & (image < high), iterations=1)]
    result = {}
    for name, values in inner.items():
        counts = np.histogram(np.clip(values, EDGES_HU[0], EDGES_HU[-1] - 1), EDGES_HU)[0]
        quartiles = [round(float(q), 1) for q in np.percentile(values, (25, 50, 75))]
        result[name] = {"quartiles_hu": quartiles, "shares": [round(float(s), 5) for s in counts / counts.sum()]}
    return result


def noise_spectrum(image: np.ndarray, region: np.ndarray, pixel_mm: float) -> dict:
    """Return SD (HU) and radial noise power (HU² mm²) of the even squares of ``region``."""
    inner = binary_erosion(region, iterations=1)
    x, y = np.meshgrid(*[np.arange(SQUARE) - (SQUARE - 1) / 2] * 2, indexing="ij")
    plane = np.stack([np.ones(SQUARE**2), x.ravel(), y.ravel()], 1)
    flat = np.eye(SQUARE**2) - plane @ np.linalg.pinv(plane)
    squares = []
    for k in range(image.shape[2]):
        windows = np.lib.stride_tricks.sliding_window_view(inner[:, :, k], (SQUARE, SQUARE)).all(axis=(2, 3))
        for i, j in np.argwhere(windows)[:: SQUARE // 2]:
            squares.append(flat @ image[i : i + SQUARE, j : j + SQUARE, k].ravel())
    found = np.array(squares).reshape(-1, SQUARE, SQUARE)
    power = (np.abs(np.fft.fft2(found)) ** 2).mean(0) * pixel_mm**2 / SQUARE**2
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(SQUARE, pixel_mm)] * 2))
    which = np.digitize(frequency, FREQUENCIES_PER_MM)
    rings = [power[which == i] for i in range(1, len(FREQUENCIES_PER_MM))]
    centres = (FREQUENCIES_PER_MM[1:] + FREQUENCIES_PER_MM[:-1]) / 2
    kept = [(float(f), float(ring.mean())) for f, ring in zip(centres, rings) if ring.size]
    return {
        "squares": len(found),
        "sd_hu": round(float(found.std()), 2),
        "frequency_per_mm": [round(f, 3) for f, _ in kept],
        "power_hu2_mm2": [round(p, 1) for _, p in kept],
    }


def matching_noise(image: np.ndarray, pulmonary: np.ndarray, spacing_mm: np.ndarray) -> float:
    """Return the setting with which the phantom's pulmonary artery is as noisy as the real one."""
    trial = make_phantom(patient_like_the_real_one(), phantom_settings(image.shape, spacing_mm, "fast", 25.0))
    loud = [
        noise_spectrum(scan, region, spacing_mm[0])["sd_hu"]
        for scan, region in ((image, pulmonary), (trial.image, phantom_regions(trial.clean)["pulmonary"]))
    ]
    return round(25.0 * loud[0] / loud[1], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, required=True)
    given = parser.parse_args()
    image, regions, spacing_mm = real_scan(given.real)
    scans = {"real": (image, regions)}
    noise_hu = matching_noise(image, regions["pulmonary"], spacing_mm)
    for mode in ("fast", "physical"):
        phantom = make_phantom(patient_like_the_real_one(), phantom_settings(image.shape, spacing_mm, mode, noise_hu))
        scans[mode] = (phantom.image, phantom_regions(phantom.clean))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=HERE).stdout.strip()
    result = {
        "command": "python benchmarks/phantom/comparison.py --real FOLDER",
        "commit": commit,
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "versions": versions(),
        "real": "cardiac_cta of TotalSegmentator's test files: one scan, 1.5 mm, a stented aortic dissection",
        "noise_hu": noise_hu,
        "edges_hu": EDGES_HU.tolist(),
        "histograms": {name: histograms(*scan) for name, scan in scans.items()},
        "noise": {
            name: noise_spectrum(scan, where["pulmonary"], spacing_mm[0]) for name, (scan, where) in scans.items()
        },
    }
    write_json(HERE / "comparison.json", result)
    print(HERE / "comparison.json")


if __name__ == "__main__":
    main()
