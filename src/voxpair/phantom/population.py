"""Adults as the literature measures them: how the sizes of phantom patients vary, by sex, and together.

In: a generator and the wanted state of sex, contrast, metal, scan range. Out: a drawn
:class:`~voxpair.phantom.anatomy.HeartParameters`.

Sizes are log-normal around sex-specific means and share one factor, body size, so that a large ventricle comes with
a large atrium. Correlations that follow: LV-RV 0.8, LV-LA 0.5, RV-RA 0.6 (design values).

Sources: LV volumes, ejection fraction and mass by CT, Kang et al. 2017; left atrium, Hudsmith et al. 2005 (MR);
right atrium, Petersen et al. 2017 (MR); aorta and pulmonary artery, Framingham CT; appendage volume 5.2 +- 3.0 mL,
Ernst et al.; its orifice and the shares of its four shapes, Wang et al. 2010. MR sees larger ventricles than CT:
the right one is the CT left one times the ratio RV / LV that Hudsmith et al. found, so that both can pump the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.contrast import draw_levels

# name: ((mean, SD) of men, (mean, SD) of women, correlation with body size)
SIZES: dict[str, tuple[tuple[float, float], tuple[float, float], float]] = {
    "lv_volume_ml": ((112.9, 26.1), (98.2, 21.0), 0.90),
    "myo_volume_ml": ((138.0, 27.7), (103.0, 19.0), 0.80),
    "rv_volume_ml": ((134.0, 24.0), (107.7, 24.0), 0.89),
    "la_volume_ml": ((103.0, 30.0), (89.0, 21.0), 0.56),
    "ra_volume_ml": ((93.0, 27.0), (69.0, 17.0), 0.67),
    "laa_volume_ml": ((5.2, 3.0), (5.2, 3.0), 0.20),
    "aortic_root_radius_mm": ((17.6, 1.6), (16.4, 1.5), 0.50),
    "ascending_radius_mm": ((17.05, 1.95), (15.95, 1.75), 0.60),
    "descending_radius_mm": ((12.9, 1.5), (11.55, 1.3), 0.50),
    "pulmonary_trunk_radius_mm": ((13.0, 1.3), (12.1, 1.3), 0.65),
    "pulmonary_branch_radius_mm": ((9.6, 1.0), (9.0, 0.9), 0.50),
    "infundibulum_radius_mm": ((14.0, 1.1), (13.0, 1.0), 0.60),
    "vein_radius_mm": ((7.0, 0.8), (6.6, 0.8), 0.30),
    "vena_cava_radius_mm": ((10.3, 1.2), (9.7, 1.1), 0.40),
    "coronary_radius_mm": ((1.85, 0.2), (1.65, 0.2), 0.40),
    "thorax_half_width_mm": ((132.0, 6.5), (118.0, 6.0), 0.70),
    "thorax_half_depth_mm": ((90.0, 4.0), (83.0, 4.0), 0.60),
    "subcutaneous_fat_mm": ((14.0, 5.0), (19.0, 6.5), 0.30),
    "epicardial_fat_mm": ((3.2, 1.3), (3.0, 1.2), 0.20),
}
_LAA_ORIFICE_MM = {"M": (24.8, 3.8), "F": (22.7, 4.1)}
_MORPHOLOGIES = {"windsock": 0.467, "cauliflower": 0.291, "chicken_wing": 0.183, "cactus": 0.059}
_LOBES = {1: 27, 2: 61, 3: 10, 4: 2}
# morphology: bend (degrees, SD), length (mm) of an appendage of 5 mL
_LAA_SHAPES = {
    "windsock": ((35, 10), 36),
    "cauliflower": ((25, 10), 27),
    "chicken_wing": ((95, 12), 37),
    "cactus": ((30, 10), 32),
}
_EJECTION = {"M": (0.634, 0.077), "F": (0.664, 0.076)}
_ELONGATION = {"M": 1.75, "F": 1.6}
"""Length over diameter: the inner diameter is 48 mm in both sexes (Kang et al. 2017)."""
_MOST_RV_EJECTION = 0.68
_LOW_SHARE = 0.40
"""Share of cardiac scans that begin below the top of the appendage: 31 % of ImageCAS have it cut."""
_CALCIFIED_SHARE = 0.3
"""Share of patients with any coronary calcium."""


def draw_anatomy(
    rng: np.random.Generator, *, sex: str, contrast: str, metal: str, scan_range: str, aorta_label: str = "whole"
) -> HeartParameters:
    """Draw one patient of the given sex, contrast state, metal and scan range; ``aorta_label`` is a convention.

    >>> draw_anatomy(np.random.default_rng(1), sex="F", contrast="mixed", metal="no", scan_range="cardiac").sex
    'F'
    """
    sizes = _sizes(sex, rng)
    return HeartParameters(
        sex=sex,
        contrast=contrast,
        metal=metal,
        scan_range=scan_range,
        aorta_label=aorta_label,
        **_beat(sex, sizes, rng),
        **_appendage(sex, sizes["laa_volume_ml"], rng),
        **_shape(sex, rng),
        **_situation(scan_range, rng),
        levels_hu=draw_levels(contrast, rng),
        detail_seed=int(rng.integers(2**31)),
    )


def _sizes(sex: str, rng: np.random.Generator) -> dict[str, float]:
    """Draw correlated log-normal sizes with the means and standard deviations of ``SIZES``."""
    body = rng.normal()
    sizes = {}
    for name, (men, women, correlation) in SIZES.items():
        mean, sd = men if sex == "M" else women
        spread = np.sqrt(np.log1p((sd / mean) ** 2))
        deviate = np.clip(correlation * body + np.sqrt(1 - correlation**2) * rng.normal(), -2.6, 2.6)
        sizes[name] = float(mean * np.exp(spread * deviate - spread**2 / 2))
    return sizes


def _beat(sex: str, sizes: dict[str, float], rng: np.random.Generator) -> dict[str, float]:
    """Return ``sizes`` with how much the chambers empty, and the phase: three scans in four rest in diastole."""
    ejection = float(np.clip(rng.normal(*_EJECTION[sex]), 0.4, 0.82))
    share = float(rng.uniform(0.97, 1.03))
    needed = share * ejection * sizes["lv_volume_ml"] / _MOST_RV_EJECTION
    return {
        **sizes,
        "rv_volume_ml": max(sizes["rv_volume_ml"], needed),
        "lv_ejection": ejection,
        "rv_stroke_share": share,
        "la_emptying": float(np.clip(rng.normal(0.55, 0.07), 0.3, 0.7)),
        "ra_emptying": float(np.clip(rng.normal(0.45, 0.07), 0.2, 0.6)),
        "phase": float(rng.uniform(0.70, 0.80) if rng.uniform() < 0.75 else rng.uniform(0.35, 0.45)),
    }


def _appendage(sex: str, volume_ml: float, rng: np.random.Generator) -> dict[str, Any]:
    """Draw the appendage's shape; each morphology has its own bend, length and number of lobes."""
    morphology = _choose(rng, _MORPHOLOGIES)
    bend, length = _LAA_SHAPES[morphology]
    lobes = _choose(rng, _LOBES)
    if morphology in ("cauliflower", "cactus"):
        lobes = max(lobes, 2 if morphology == "cactus" else 3)
    size = (volume_ml / 5) ** (1 / 3)
    mean, sd = _LAA_ORIFICE_MM[sex]
    wide = mean + sd * (0.7 * np.clip((size - 0.97) / 0.17, -2, 2) + 0.7 * rng.normal())
    return {
        "laa_morphology": morphology,
        "laa_lobes": lobes,
        "laa_length_mm": float(length * size * np.exp(rng.normal(0, 0.08))),
        "laa_bend_deg": float(rng.normal(*bend)),
        "laa_orifice_mm": float(np.clip(wide, 12, 36)),
    }


def _shape(sex: str, rng: np.random.Generator) -> dict[str, float]:
    """Draw what sizes do not say: proportions, walls, deformation, turn of the heart."""
    calcified = rng.uniform() < _CALCIFIED_SHARE
    shape = {
        "lv_elongation": float(np.clip(rng.normal(_ELONGATION[sex], 0.12), 1.35, 2.1)),
        "septal_thickening": float(np.clip(rng.normal(0.12, 0.05), 0, 0.3)),
        "apical_thinning": float(np.clip(rng.normal(0.40, 0.07), 0.2, 0.6)),
        "apex_wall_mm": float(np.clip(rng.normal(2.3, 0.6), 1.0, 4.5)),
        "papillary_radius_mm": float(rng.uniform(3.5, 5.5)),
        "trabecula_mm": float(rng.uniform(1.2, 3.0)),
        "wall_mm": float(rng.uniform(2.0, 3.0)),
        "arch_height_mm": float(rng.normal(0, 5)),
        "diaphragm_height_mm": float(rng.normal(0, 5)),
        "vertebra_radius_mm": float(rng.normal(17.5 if sex == "M" else 16.0, 0.8)),
        "breast_mm": 0.0 if sex == "M" else float(rng.uniform(15, 45)),
        "coronary_calcium": float(rng.uniform(0.01, 0.12)) if calcified else 0.0,
        "warp_mm": float(rng.uniform(1.5, 3.0)),
        "warp_width_mm": float(rng.uniform(27, 38)),
    }
    return shape | {f"turn_{plane}_deg": float(rng.normal(0, 6)) for plane in ("axial", "coronal", "sagittal")}


def _situation(scan_range: str, rng: np.random.Generator) -> dict[str, float]:
    """Draw where the field of view lies; a scan of the heart alone may start too low for the whole PA, or LAA."""
    head = rng.normal(4, 5) if scan_range == "cardiac" else rng.normal(0, 6)
    if scan_range == "cardiac" and rng.uniform() < _LOW_SHARE:
        head = rng.uniform(-46, -36)
    return {
        "offset_right_mm": float(rng.normal(0, 7)),
        "offset_front_mm": float(rng.normal(0, 6)),
        "offset_head_mm": float(np.clip(head, -46, 14)),
    }


def _choose(rng: np.random.Generator, shares: dict[Any, float]) -> Any:
    weights = np.array(list(shares.values()), float)
    return list(shares)[int(rng.choice(len(weights), p=weights / weights.sum()))]
