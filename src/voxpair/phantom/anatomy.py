"""One patient's anatomy as numbers: sizes, shape, situation, and how they vary between patients.

In: a generator (and the wanted state of sex, contrast, metal, scan range). Out: :class:`HeartParameters`.

Sizes are log-normal around sex-specific means and share one factor, body size, so that a large ventricle
comes with a large atrium. Correlations that follow: LV-RV 0.8, LV-LA 0.5, RV-RA 0.6 (design values).

Sources of the means: LV volume and mass by CT, Kang et al. 2017; aorta and pulmonary artery, Framingham CT;
left atrium (mid-diastole, between its largest and smallest), Hudsmith et al. 2005; appendage volume
5.2 +- 3.0 mL, Ernst et al.; shares of its four shapes, Wang et al. 2010. The right ventricle is
1.22 times the left, as the upper limits of normal by CT have it (Copenhagen, n = 569).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np

from voxpair.core.errors import InputError
from voxpair.phantom.contrast import ContrastState, check_state, draw_levels

Sex = Literal["F", "M"]
Metal = Literal["no", "lead", "wires"]
ScanRange = Literal["cardiac", "up_to_arch"]
Morphology = Literal["windsock", "cauliflower", "chicken_wing", "cactus"]

_SIGNED = ("offset_right_mm", "offset_front_mm", "offset_head_mm", "diaphragm_height_mm", "arch_height_mm")
_MAY_BE_ZERO = ("warp_mm", "epicardial_fat_mm", "papillary_radius_mm")
_REACH = {"apical_thinning": (0, 0.9), "septal_thickening": (-0.5, 0.5), "laa_lobes": (1, 4), "phase": (0, 1)}
_CHOICES = {"sex": Sex, "metal": Metal, "scan_range": ScanRange, "laa_morphology": Morphology}


@dataclass(frozen=True)
class HeartParameters:
    """All that makes one phantom patient; ``_mm``, ``_ml``, ``_deg`` and ``_hu`` are units. Defaults are a typical man.

    Volumes are what the labelled structures hold, in a field of view that cuts nothing off. ``lv_elongation``
    is LV length over diameter. ``septal_thickening`` and ``apical_thinning`` are shares of the wall thickness.
    ``turn_*_deg`` rotate the heart in the chest; ``offset_*_mm`` move it in the field of view.
    ``phase`` is the time since the R wave as a share of the heart beat: 0 is end-diastole.
    ``levels_hu`` are the blood and tissue levels of :mod:`voxpair.phantom.contrast`.

    Raises:
        InputError: names the parameter that is out of range.
    """

    sex: Sex = "M"
    contrast: ContrastState = "arterial"
    metal: Metal = "no"
    scan_range: ScanRange = "cardiac"
    lv_volume_ml: float = 113.0
    myo_volume_ml: float = 138.0
    rv_volume_ml: float = 138.0
    la_volume_ml: float = 72.0
    ra_volume_ml: float = 80.0
    laa_volume_ml: float = 4.8
    lv_elongation: float = 1.75
    septal_thickening: float = 0.12
    apical_thinning: float = 0.45
    papillary_radius_mm: float = 4.5
    turn_axial_deg: float = 0.0
    turn_coronal_deg: float = 0.0
    turn_sagittal_deg: float = 0.0
    aortic_root_radius_mm: float = 17.5
    ascending_radius_mm: float = 17.0
    descending_radius_mm: float = 12.9
    arch_height_mm: float = 0.0
    pulmonary_trunk_radius_mm: float = 12.5
    pulmonary_branch_radius_mm: float = 9.5
    pulmonary_label_extent_mm: float = 30.0
    infundibulum_radius_mm: float = 14.0
    vein_radius_mm: float = 7.0
    vein_label_mm: float = 10.0
    vena_cava_radius_mm: float = 10.0
    laa_morphology: Morphology = "windsock"
    laa_lobes: int = 2
    laa_length_mm: float = 38.0
    laa_bend_deg: float = 40.0
    laa_orifice_radius_mm: float = 10.0
    wall_mm: float = 2.5
    epicardial_fat_mm: float = 5.0
    subcutaneous_fat_mm: float = 16.0
    thorax_half_width_mm: float = 128.0
    thorax_half_depth_mm: float = 78.0
    diaphragm_height_mm: float = 0.0
    vertebra_radius_mm: float = 17.0
    warp_mm: float = 2.5
    warp_width_mm: float = 32.0
    offset_right_mm: float = 0.0
    offset_front_mm: float = 0.0
    offset_head_mm: float = 0.0
    levels_hu: dict[str, float] = field(default_factory=lambda: draw_levels("arterial", np.random.default_rng(0)))
    phase: float = 0.75
    detail_seed: int = 0

    def __post_init__(self) -> None:
        check_state(self.contrast)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                raise InputError(
                    f"heart parameter {name!r}: expected one of {', '.join(get_args(choices))}, "
                    f"got {getattr(self, name)!r}"
                )
        for item in fields(self):
            _check_number(item.name, getattr(self, item.name))

    def to_dict(self) -> dict[str, Any]:
        """Return all parameters as plain values that JSON can hold."""
        return asdict(self)


def _check_number(name: str, value: Any) -> None:
    """Raise if the parameter ``name`` is a number out of its range."""
    if isinstance(value, (str, dict)):
        return
    if not np.isfinite(value):
        raise InputError(f"heart parameter {name!r} must be finite, got {value}")
    low, high = _REACH.get(name, (-np.inf, np.inf))
    if not low <= value <= high:
        raise InputError(f"heart parameter {name!r} must lie in {low} to {high}, got {value}")
    is_size = name.endswith(("_mm", "_ml", "elongation")) and name not in _SIGNED
    if is_size and (value < 0 or (value == 0 and name not in _MAY_BE_ZERO)):
        raise InputError(f"heart parameter {name!r} must be above 0, got {value}")


# name: (mean of men, mean of women, coefficient of variation, correlation with body size)
_SIZES: dict[str, tuple[float, float, float, float]] = {
    "lv_volume_ml": (112.9, 98.2, 0.22, 0.90),
    "myo_volume_ml": (138.0, 103.0, 0.19, 0.80),
    "rv_volume_ml": (138.0, 120.0, 0.20, 0.88),
    "la_volume_ml": (72.0, 63.0, 0.25, 0.58),
    "ra_volume_ml": (80.0, 65.0, 0.25, 0.65),
    "laa_volume_ml": (5.4, 5.0, 0.50, 0.30),
    "aortic_root_radius_mm": (17.6, 16.4, 0.09, 0.50),
    "ascending_radius_mm": (17.05, 15.95, 0.11, 0.45),
    "descending_radius_mm": (12.9, 11.55, 0.11, 0.50),
    "pulmonary_trunk_radius_mm": (12.9, 12.2, 0.10, 0.50),
    "pulmonary_branch_radius_mm": (9.6, 9.0, 0.10, 0.50),
    "infundibulum_radius_mm": (14.0, 13.0, 0.08, 0.60),
    "vein_radius_mm": (7.0, 6.6, 0.12, 0.30),
    "vena_cava_radius_mm": (10.3, 9.7, 0.12, 0.40),
    "thorax_half_width_mm": (132.0, 118.0, 0.05, 0.70),
    "thorax_half_depth_mm": (80.0, 74.0, 0.05, 0.50),
    "subcutaneous_fat_mm": (14.0, 19.0, 0.35, 0.30),
    "epicardial_fat_mm": (5.0, 4.5, 0.30, 0.20),
}
_MORPHOLOGIES = {"windsock": 0.467, "cauliflower": 0.291, "chicken_wing": 0.183, "cactus": 0.059}
_LOBES = {1: 27, 2: 61, 3: 10, 4: 2}


def _sizes(sex: str, rng: np.random.Generator) -> dict[str, float]:
    """Draw correlated log-normal sizes whose means and coefficients of variation are those of ``_SIZES``."""
    body = rng.normal()
    sizes = {}
    for name, (men, women, variation, correlation) in _SIZES.items():
        spread = np.sqrt(np.log1p(variation**2))
        deviate = np.clip(correlation * body + np.sqrt(1 - correlation**2) * rng.normal(), -2.5, 2.5)
        mean = men if sex == "M" else women
        sizes[name] = float(mean * np.exp(spread * deviate - spread**2 / 2))
    return sizes


def _choose(rng: np.random.Generator, shares: dict[Any, float]) -> Any:
    weights = np.array(list(shares.values()), float)
    return list(shares)[int(rng.choice(len(weights), p=weights / weights.sum()))]


def _appendage(rng: np.random.Generator) -> dict[str, Any]:
    """Draw the appendage's shape; each morphology has its own bend, length and number of lobes."""
    morphology = _choose(rng, _MORPHOLOGIES)
    bend = {"windsock": (35, 10), "cauliflower": (25, 10), "chicken_wing": (95, 12), "cactus": (30, 10)}[morphology]
    length = {"windsock": 40, "cauliflower": 28, "chicken_wing": 42, "cactus": 34}[morphology]
    lobes = _choose(rng, _LOBES)
    if morphology in ("cauliflower", "cactus"):
        lobes = max(lobes, 2 if morphology == "cactus" else 3)
    return {
        "laa_morphology": morphology,
        "laa_lobes": lobes,
        "laa_length_mm": float(length * np.exp(rng.normal(0, 0.1))),
        "laa_bend_deg": float(rng.normal(*bend)),
        "laa_orifice_radius_mm": float(10.2 * np.exp(rng.normal(0, 0.12))),
    }


def draw_anatomy(rng: np.random.Generator, *, sex: str, contrast: str, metal: str, scan_range: str) -> HeartParameters:
    """Draw one patient of the given sex, contrast state, metal and scan range.

    >>> draw_anatomy(np.random.default_rng(1), sex="F", contrast="mixed", metal="no", scan_range="cardiac").sex
    'F'
    """
    shape = {
        "lv_elongation": float(np.clip(rng.normal(1.75, 0.12), 1.45, 2.1)),
        "septal_thickening": float(np.clip(rng.normal(0.12, 0.05), 0, 0.3)),
        "apical_thinning": float(np.clip(rng.normal(0.45, 0.08), 0.2, 0.7)),
        "papillary_radius_mm": float(rng.uniform(3.5, 5.5)),
        "wall_mm": float(rng.uniform(2.2, 3.2)),
        "pulmonary_label_extent_mm": float(max(12.0, rng.normal(30, 6.5))),
        "arch_height_mm": float(rng.normal(0, 5)),
        "diaphragm_height_mm": float(rng.normal(0, 5)),
        "vertebra_radius_mm": float(rng.normal(17.5 if sex == "M" else 16.0, 0.8)),
        "warp_mm": float(rng.uniform(1.5, 3.0)),
        "warp_width_mm": float(rng.uniform(27, 38)),
    }
    turns = {f"turn_{plane}_deg": float(rng.normal(0, 6)) for plane in ("axial", "coronal", "sagittal")}
    offsets = {f"offset_{side}_mm": float(rng.normal(0, sd)) for side, sd in (("right", 6), ("front", 5), ("head", 5))}
    return HeartParameters(
        sex=sex,
        contrast=contrast,
        metal=metal,
        scan_range=scan_range,
        **_sizes(sex, rng),
        **_appendage(rng),
        **shape,
        **turns,
        **offsets,
        levels_hu=draw_levels(contrast, rng),
        detail_seed=int(rng.integers(2**31)),
    )
