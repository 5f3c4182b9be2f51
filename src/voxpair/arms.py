"""Arms: how the segmenters of a study differ; everything else about them is equal.

An arm is data. :mod:`voxpair.study` fits it; ``voxpair run`` fits the papers' three protocols, which are arms too.

    arm                     real  made cases       begins from  last part  updates  source
    baseline                yes   none             chance                  fewer    Ikuta et al. 2024, Table 1
    baseline_equal_updates  yes   none             chance                  equal    the same, as it should have been
    strong_augmentation     yes   none             chance                  equal    rival
    self_training           yes   pseudo-labelled  chance       real       equal    rival
    domain_randomisation    yes   randomised       chance       real       equal    rival: Billot et al. 2023 (SynthSeg)
    medical_diffusion       yes   none             pretraining             equal    Ikuta et al. 2024, Table 1
    ours                    yes   synthetic        pretraining  mixed      equal    the same
    ours_real_last          yes   synthetic        pretraining  real       equal    the same, with E2-5's last part
    ours_self_training      yes   both kinds       pretraining  real       equal    ours: synthetic and pseudo-labelled
    e2_1                    yes   none             chance                  equal    Han et al. 2023, Tables 2 and 3
    e2_2                    no    synthetic        chance       mixed      equal    the same
    e2_3                    yes   synthetic        chance       mixed      equal    the same
    e2_4                    no    synthetic        chance       real       equal    the same
    e2_5                    yes   synthetic        chance       real       equal    the same
    e3_1                    target's alone         chance                  equal    Han et al. 2023, Table 4
    e3_2, e3_3, e3_4        target's alone         e2_1, e2_4, e2_5        equal    the same

Baseline sees as many epochs of the real cases as Ours, and so fewer updates: the papers compare like this. The
unlabelled training cases of the two self_training arms are labelled by baseline_equal_updates of the same seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from voxpair.core.errors import InputError
from voxpair.core.settings import merge
from voxpair.networks import NETWORKS

if TYPE_CHECKING:
    from voxpair.networks.backbones import BackboneSettings
    from voxpair.pretraining.masked_modelling import PretrainSettings
    from voxpair.segmentation.segmenter import SegmenterSettings

Made = Literal["synthetic", "pseudo_labelled", "randomised"]
TEACHER = "baseline_equal_updates"
"""The arm that labels the unlabelled training cases for the others."""


@dataclass(frozen=True)
class Arm:
    """How one kind of segmenter is made.

    Args:
        about: in words, for tables.
        made: kinds of made cases that it sees beside the real ones.
        real: whether it sees real cases before the last part.
        last_part_real: whether the last part of the updates (``mix.real_only_last``) sees real cases alone.
        pretrained: whether it begins from the pretrained encoder.
        teacher: the arm, of the same seed, that labels the unlabelled training cases for it.
        start: the arm, of the same seed, from all of whose weights it begins.
        on_target: whether it is fitted and judged on the target cohort instead.
        epochs_of_ours: whether it gets as many epochs of the real cases as Ours, and so fewer updates.
        network: another network than the preset's.
        changes: further settings of the segmenter, nested.
    """

    about: str
    made: tuple[Made, ...] = ()
    real: bool = True
    last_part_real: bool = False
    pretrained: bool = False
    teacher: str | None = None
    start: str | None = None
    on_target: bool = False
    epochs_of_ours: bool = False
    network: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def requires(self) -> str | None:
        """The arm, of the same seed, that has to be fitted before this one."""
        return self.teacher or self.start

    def settings(self, base: SegmenterSettings) -> SegmenterSettings:
        """Return the settings of this arm's segmenter, ``base`` being those that all arms share."""
        mix = {"real_only_last": base.mix.real_only_last if self.last_part_real else 0.0}
        if not self.real:
            mix["synthetic_share"] = 1.0
        settings = merge(base, {"mix": mix, "backbone": self._backbone(base.backbone)}, source="arm")
        settings = merge(settings, dict(self.changes), source="arm")
        if self.epochs_of_ours:
            updates = max(1, round(settings.loop.updates * (1 - settings.mix.synthetic_share)))
            settings = merge(settings, {"loop": {"updates": updates}}, source="arm")
        return settings

    def pretraining(self, base: PretrainSettings) -> PretrainSettings:
        """Return the settings of the pretraining that this arm begins from."""
        return merge(base, {"backbone": self._backbone(base.backbone)}, source="arm")

    def _backbone(self, base: BackboneSettings) -> dict[str, Any]:
        from voxpair.networks.backbones import of_similar_width

        return of_similar_width(base, self.network or base.network).model_dump()


_STRONG = {
    "augmentation": {
        "spatial": 0.95,
        "rotation_degrees": 30.0,
        "scale": 1.4,
        "shear": 0.1,
        "elastic_mm": 2.0,
        "gamma_probability": 0.5,
        "gamma": 2.0,
        "brightness_probability": 0.5,
        "brightness": 0.1,
        "contrast": 0.4,
        "noise_probability": 0.4,
        "noise": 0.06,
        "blur_probability": 0.4,
        "blur_voxels": 1.5,
        "shading_probability": 0.4,
    }
}

ARMS: dict[str, Arm] = {
    "baseline": Arm("real cases alone, as many epochs of them as Ours", epochs_of_ours=True),
    "baseline_equal_updates": Arm("real cases alone"),
    "strong_augmentation": Arm("real cases alone, strongly augmented", changes=_STRONG),
    "self_training": Arm(
        "real and pseudo-labelled cases, then real ones",
        made=("pseudo_labelled",),
        teacher=TEACHER,
        last_part_real=True,
    ),
    "domain_randomisation": Arm("real and randomised cases, then real ones", made=("randomised",), last_part_real=True),
    "medical_diffusion": Arm("pretrained encoder, then real cases alone", pretrained=True),
    "ours": Arm("pretrained encoder, real and synthetic cases to the end", made=("synthetic",), pretrained=True),
    "ours_real_last": Arm(
        "pretrained encoder, real and synthetic cases, then real ones",
        made=("synthetic",),
        pretrained=True,
        last_part_real=True,
    ),
    "ours_self_training": Arm(
        "pretrained encoder, real, synthetic and pseudo-labelled cases, then real ones",
        made=("synthetic", "pseudo_labelled"),
        pretrained=True,
        teacher=TEACHER,
        last_part_real=True,
    ),
    "e2_1": Arm("real cases alone"),
    "e2_2": Arm("synthetic cases alone", made=("synthetic",), real=False),
    "e2_3": Arm("real and synthetic cases", made=("synthetic",)),
    "e2_4": Arm("synthetic cases, then real ones", made=("synthetic",), real=False, last_part_real=True),
    "e2_5": Arm("real and synthetic cases, then real ones", made=("synthetic",), last_part_real=True),
    "e3_1": Arm("target's cases from scratch", on_target=True),
    "e3_2": Arm("target's cases, beginning from e2_1", on_target=True, start="e2_1"),
    "e3_3": Arm("target's cases, beginning from e2_4", on_target=True, start="e2_4"),
    "e3_4": Arm("target's cases, beginning from e2_5", on_target=True, start="e2_5"),
}

PROTOCOLS: dict[str, Arm] = {
    "baseline": ARMS["baseline_equal_updates"],
    "medical_diffusion": ARMS["medical_diffusion"],
    "ours": ARMS["ours_real_last"],
}
"""The papers' three rows, at equal updates and with the last part on real cases: what ``voxpair run`` fits."""


def choose(names: Sequence[str], networks: Sequence[str] = (), ratios: Sequence[float] = ()) -> dict[str, Arm]:
    """Return the arms by these names and whatever they require, what is required first.

    Args:
        networks: each arm once for each of these; none leaves the preset's.
        ratios: each arm with made cases once for each of these numbers of made cases per real case.

    Raises:
        InputError: a name or a network that there is not, or a ratio below 0.

    >>> list(choose(["self_training"]))
    ['baseline_equal_updates', 'self_training']
    >>> list(choose(["e2_1", "e2_5"], ratios=[1, 3]))
    ['e2_1', 'e2_5@1to1', 'e2_5@3to1']
    """
    for name in names:
        if name not in ARMS:
            raise InputError(f"no arm {name!r}; there are {', '.join(ARMS)}")
    for network in networks:
        if network not in NETWORKS:
            raise InputError(f"no network {network!r}; there are {', '.join(NETWORKS)}")
    if any(ratio < 0 for ratio in ratios):
        raise InputError(f"a ratio of synthetic to real cases cannot be below 0, got {', '.join(map(str, ratios))}")
    chosen: dict[str, Arm] = {}
    for name in names:
        for network in networks or [None]:
            for ratio in (ratios if ARMS[name].made and ARMS[name].real else ()) or [None]:
                _add(name, network, ratio, chosen)
    return chosen


def _add(name: str, network: str | None, ratio: float | None, chosen: dict[str, Arm]) -> str:
    """Put a variant of an arm into ``chosen``, behind what it requires; return the variant's name."""
    arm = replace(ARMS[name], network=network)
    if arm.requires:
        needed = _add(arm.requires, network, ratio if ARMS[arm.requires].made else None, chosen)
        arm = replace(arm, teacher=needed) if arm.teacher else replace(arm, start=needed)
    if network:
        name = f"{name}@{network}"
    if ratio is not None:
        name = f"{name}@{ratio:g}to1"
        arm = replace(arm, changes={**arm.changes, "mix": {"synthetic_share": ratio / (1 + ratio)}})
    chosen.setdefault(name, arm)
    return name
