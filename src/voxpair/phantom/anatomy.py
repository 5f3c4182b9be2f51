"""One patient's anatomy as numbers, checked: sizes, shape, situation, phase of the heart beat, brightness.

In: values, for example from :mod:`~voxpair.phantom.population`. Out: :class:`HeartParameters`; whatever cannot be is
refused with its name.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Literal, get_args

import numpy as np

from voxpair.core.errors import InputError
from voxpair.phantom.contrast import LEVELS, ContrastState, check_state, draw_levels

Sex = Literal["F", "M"]
Metal = Literal["no", "lead", "wires", "valve", "stent"]
ScanRange = Literal["cardiac", "up_to_arch"]
AortaLabel = Literal["whole", "ascending"]
Morphology = Literal["windsock", "cauliflower", "chicken_wing", "cactus"]

# name: what an adult's can be, healthy or ill, with room to spare
_REACH = {
    "phase": (0, 1),
    "lv_volume_ml": (25, 450),
    "lv_ejection": (0.1, 0.85),
    "myo_volume_ml": (40, 400),
    "rv_volume_ml": (25, 450),
    "rv_stroke_share": (0.95, 1.05),
    "la_volume_ml": (15, 400),
    "la_emptying": (0, 0.8),
    "ra_volume_ml": (15, 400),
    "ra_emptying": (0, 0.8),
    "laa_volume_ml": (0.3, 40),
    "lv_elongation": (1, 2.6),
    "septal_thickening": (-0.5, 0.5),
    "apical_thinning": (0, 0.9),
    "apex_wall_mm": (0.5, 12),
    "papillary_radius_mm": (0, 9),
    "trabecula_mm": (0, 6),
    "turn_axial_deg": (-60, 60),
    "turn_coronal_deg": (-60, 60),
    "turn_sagittal_deg": (-60, 60),
    "aortic_root_radius_mm": (8, 30),
    "ascending_radius_mm": (7, 30),
    "descending_radius_mm": (5, 25),
    "arch_height_mm": (-50, 50),
    "pulmonary_trunk_radius_mm": (6, 25),
    "pulmonary_branch_radius_mm": (4, 20),
    "infundibulum_radius_mm": (6, 25),
    "vein_radius_mm": (2, 14),
    "vein_label_mm": (1, 30),
    "vena_cava_radius_mm": (4, 20),
    "coronary_radius_mm": (0.5, 5),
    "coronary_calcium": (0, 1),
    "laa_lobes": (1, 4),
    "laa_length_mm": (8, 100),
    "laa_bend_deg": (-90, 180),
    "laa_orifice_mm": (8, 45),
    "wall_mm": (1, 6),
    "epicardial_fat_mm": (0, 25),
    "subcutaneous_fat_mm": (1, 100),
    "breast_mm": (0, 120),
    "thorax_half_width_mm": (85, 220),
    "thorax_half_depth_mm": (60, 160),
    "diaphragm_height_mm": (-60, 60),
    "vertebra_radius_mm": (9, 28),
    "warp_mm": (0, 5),
    "warp_width_mm": (20, 80),
    "offset_right_mm": (-300, 300),
    "offset_front_mm": (-300, 300),
    "offset_head_mm": (-300, 300),
    "detail_seed": (0, 2**63 - 1),
}
_LEVEL_REACH_HU = (-1024, 3071)
_STREAMING_REACH_HU = (0, 500)
_CHOICES = {
    "sex": Sex,
    "metal": Metal,
    "scan_range": ScanRange,
    "aorta_label": AortaLabel,
    "laa_morphology": Morphology,
}


@dataclass(frozen=True)
class HeartParameters:
    """All that makes one phantom patient; ``_mm``, ``_ml``, ``_deg`` and ``_hu`` are units. Defaults are a typical man.

    Volumes of the cavities are the largest of the heart beat (end-diastole for ventricles, end-systole for atria); of
    the appendage, the mean. They count what the labelled structures hold in a field of view that cuts nothing off.
    ``phase`` is the time since the R wave as a share of the beat. ``lv_ejection``, ``la_emptying``, ``ra_emptying``
    are the shares that leave at most, ``rv_stroke_share`` is the right stroke volume over the left.
    ``lv_elongation`` is LV length over diameter. ``septal_thickening`` and ``apical_thinning`` are shares of the wall
    thickness; ``apex_wall_mm`` is that of the LV's very tip. ``turn_*_deg`` rotate the heart in the chest;
    ``offset_*_mm`` move the field of view.
    ``aorta_label`` is a convention: ``whole`` labels what of the aorta is seen, the limb that descends behind the
    heart too; ``ascending`` root, ascending part and the front of the arch.
    ``coronary_calcium`` is the share of the coronary arteries that is calcified. ``levels_hu`` are the blood and
    tissue levels of :mod:`voxpair.phantom.contrast`. ``detail_seed`` names what is random below these numbers.

    Raises:
        InputError: names the parameter that is out of range.
    """

    sex: Sex = "M"
    contrast: ContrastState = "arterial"
    metal: Metal = "no"
    scan_range: ScanRange = "cardiac"
    aorta_label: AortaLabel = "whole"
    phase: float = 0.75
    lv_volume_ml: float = 113.0
    lv_ejection: float = 0.63
    myo_volume_ml: float = 138.0
    rv_volume_ml: float = 134.0
    rv_stroke_share: float = 1.0
    la_volume_ml: float = 103.0
    la_emptying: float = 0.56
    ra_volume_ml: float = 93.0
    ra_emptying: float = 0.45
    laa_volume_ml: float = 5.2
    lv_elongation: float = 1.75
    septal_thickening: float = 0.12
    apical_thinning: float = 0.4
    apex_wall_mm: float = 2.3
    papillary_radius_mm: float = 4.5
    trabecula_mm: float = 2.0
    turn_axial_deg: float = 0.0
    turn_coronal_deg: float = 0.0
    turn_sagittal_deg: float = 0.0
    aortic_root_radius_mm: float = 17.5
    ascending_radius_mm: float = 17.0
    descending_radius_mm: float = 12.9
    arch_height_mm: float = 0.0
    pulmonary_trunk_radius_mm: float = 13.0
    pulmonary_branch_radius_mm: float = 9.5
    infundibulum_radius_mm: float = 14.0
    vein_radius_mm: float = 7.0
    vein_label_mm: float = 10.0
    vena_cava_radius_mm: float = 10.0
    coronary_radius_mm: float = 1.8
    coronary_calcium: float = 0.0
    laa_morphology: Morphology = "windsock"
    laa_lobes: int = 2
    laa_length_mm: float = 38.0
    laa_bend_deg: float = 40.0
    laa_orifice_mm: float = 24.5
    wall_mm: float = 2.5
    epicardial_fat_mm: float = 3.2
    subcutaneous_fat_mm: float = 16.0
    breast_mm: float = 0.0
    thorax_half_width_mm: float = 128.0
    thorax_half_depth_mm: float = 90.0
    diaphragm_height_mm: float = 0.0
    vertebra_radius_mm: float = 17.0
    warp_mm: float = 2.5
    warp_width_mm: float = 32.0
    offset_right_mm: float = 0.0
    offset_front_mm: float = 0.0
    offset_head_mm: float = 0.0
    levels_hu: dict[str, float] = field(default_factory=lambda: draw_levels("arterial", np.random.default_rng(0)))
    detail_seed: int = 0

    def __post_init__(self) -> None:
        check_state(self.contrast)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                raise InputError(
                    f"heart parameter {name!r}: expected one of {', '.join(get_args(choices))}, "
                    f"got {getattr(self, name)!r}"
                )
        _check_levels(self.levels_hu)
        for item in fields(self):
            if item.name in _REACH:
                _check_number(item.name, getattr(self, item.name), _REACH[item.name], whole=item.type == "int")
        left = self.rv_volume_ml - self.rv_stroke_share * self.lv_ejection * self.lv_volume_ml
        if left < 0.15 * self.rv_volume_ml:
            raise InputError(
                f"heart parameters 'rv_volume_ml' = {self.rv_volume_ml:.1f} and 'lv_volume_ml' = "
                f"{self.lv_volume_ml:.1f} contradict each other: the right ventricle cannot give the stroke volume of "
                f"a left one that ejects {self.lv_ejection:.0%}; take more of the first or less of the second"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return all parameters as plain values that JSON can hold."""
        return asdict(self)


def _check_levels(levels_hu: Any) -> None:
    """Raise unless there is one level in HU for everything that has one."""
    if not isinstance(levels_hu, dict) or set(levels_hu) != set(LEVELS):
        found = ", ".join(map(str, levels_hu)) if isinstance(levels_hu, dict) else repr(levels_hu)
        raise InputError(f"heart parameter 'levels_hu': expected levels of {', '.join(LEVELS)}, got {found}")
    for name, level in levels_hu.items():
        _check_number(f"levels_hu.{name}", level, _STREAMING_REACH_HU if name == "streaming" else _LEVEL_REACH_HU)


def _check_number(name: str, value: Any, reach: tuple[float, float], whole: bool = False) -> None:
    """Raise unless the parameter ``name`` is a finite number, ``whole`` if need be, within ``reach``."""
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise InputError(f"heart parameter {name!r} must be a {'whole ' if whole else ''}number, got {value!r}")
    low, high = reach
    if not low <= value <= high:  # written so that NaN counts as outside
        raise InputError(f"heart parameter {name!r} must lie in {low} to {high}, got {value}")
