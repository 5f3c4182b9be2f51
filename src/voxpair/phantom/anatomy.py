"""One patient's anatomy as numbers, checked: sizes, shape, situation, phase of the heart beat, brightness.

In: values, for example from :mod:`~voxpair.phantom.population`. Out: :class:`HeartParameters`; whatever cannot be is
refused with its name.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np

from voxpair.core.errors import InputError
from voxpair.phantom.contrast import ContrastState, check_state, draw_levels

Sex = Literal["F", "M"]
Metal = Literal["no", "lead", "wires", "valve", "stent"]
ScanRange = Literal["cardiac", "up_to_arch"]
Morphology = Literal["windsock", "cauliflower", "chicken_wing", "cactus"]

_SIGNED = ("offset_right_mm", "offset_front_mm", "offset_head_mm", "diaphragm_height_mm", "arch_height_mm")
_MAY_BE_ZERO = ("warp_mm", "epicardial_fat_mm", "papillary_radius_mm", "trabecula_mm", "breast_mm")
_REACH = {
    "apical_thinning": (0, 0.9),
    "septal_thickening": (-0.5, 0.5),
    "laa_lobes": (1, 4),
    "phase": (0, 1),
    "lv_ejection": (0.1, 0.85),
    "rv_stroke_share": (0.95, 1.05),
    "la_emptying": (0, 0.8),
    "ra_emptying": (0, 0.8),
    "coronary_calcium": (0, 1),
    "warp_mm": (0, 5),
    "warp_width_mm": (20, 80),
}
_CHOICES = {"sex": Sex, "metal": Metal, "scan_range": ScanRange, "laa_morphology": Morphology}


@dataclass(frozen=True)
class HeartParameters:
    """All that makes one phantom patient; ``_mm``, ``_ml``, ``_deg`` and ``_hu`` are units. Defaults are a typical man.

    Volumes of the cavities are the largest of the heart beat (end-diastole for ventricles, end-systole for atria); of
    the appendage, the mean. They count what the labelled structures hold in a field of view that cuts nothing off.
    ``phase`` is the time since the R wave as a share of the beat. ``lv_ejection``, ``la_emptying``, ``ra_emptying``
    are the shares that leave at most, ``rv_stroke_share`` is the right stroke volume over the left.
    ``lv_elongation`` is LV length over diameter. ``septal_thickening`` and ``apical_thinning`` are shares of the wall
    thickness. ``turn_*_deg`` rotate the heart in the chest; ``offset_*_mm`` move the field of view.
    ``coronary_calcium`` is the share of the coronary arteries that is calcified. ``levels_hu`` are the blood and
    tissue levels of :mod:`voxpair.phantom.contrast`. ``detail_seed`` names what is random below these numbers.

    Raises:
        InputError: names the parameter that is out of range.
    """

    sex: Sex = "M"
    contrast: ContrastState = "arterial"
    metal: Metal = "no"
    scan_range: ScanRange = "cardiac"
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
    apical_thinning: float = 0.45
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
        for item in fields(self):
            _check_number(item.name, getattr(self, item.name))
        left = self.rv_volume_ml - self.rv_stroke_share * self.lv_ejection * self.lv_volume_ml
        if left < 0.15 * self.rv_volume_ml:
            raise InputError(
                f"heart parameter 'rv_volume_ml' = {self.rv_volume_ml:.1f} cannot give the stroke volume of a left "
                f"ventricle of {self.lv_volume_ml:.1f} mL that ejects {self.lv_ejection:.0%}; expected more"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return all parameters as plain values that JSON can hold."""
        return asdict(self)


def _check_number(name: str, value: Any) -> None:
    """Raise if the parameter ``name`` is a number out of its range."""
    if isinstance(value, str):
        return
    if isinstance(value, dict):
        for key, level in value.items():
            _check_number(f"{name}.{key}", level)
        return
    if not np.isfinite(value):
        raise InputError(f"heart parameter {name!r} must be finite, got {value}")
    low, high = _REACH.get(name, (-np.inf, np.inf))
    if not low <= value <= high:
        raise InputError(f"heart parameter {name!r} must lie in {low} to {high}, got {value}")
    is_size = name.endswith(("_mm", "_ml", "elongation")) and name not in _SIGNED
    if is_size and (value < 0 or (value == 0 and name not in _MAY_BE_ZERO)):
        raise InputError(f"heart parameter {name!r} must be above 0, got {value}")
