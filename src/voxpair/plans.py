"""What a whole run is: its settings, and how many cases of each kind it may use. A preset is one of these.

Settings classes live beside the components that use them; this is the only place where they are put together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field, field_validator

from voxpair.arms import PROTOCOLS
from voxpair.cohorts.cohort import Cohort
from voxpair.core.errors import InputError
from voxpair.core.settings import Settings
from voxpair.evaluation.audit.memorisation import AuditSettings
from voxpair.evaluation.selection.selector import SelectionSettings
from voxpair.generators.domain_randomisation.generator import DomainRandomisationSettings
from voxpair.generators.joint_ldm.generator import JointLDMSettings
from voxpair.generators.medgen3d.generator import MedGen3DSettings
from voxpair.phantom.heart_cohort import PhantomSettings
from voxpair.pretraining.masked_modelling import PretrainSettings
from voxpair.segmentation.segmenter import SegmenterSettings


class CaseCounts(Settings):
    """How many cases there are of what.

    Attributes:
        phantom: hearts that ``voxpair demo`` makes.
        train, val, test: patients; a number, or a fraction below 1.
        labelled: training cases whose labels are used; None uses all there are.
        unlabelled: training cases used for their images alone: those that have no labels, and those beyond
            ``labelled``; None uses all there are.
    """

    phantom: int = Field(40, ge=4)
    train: float = 0.8
    val: float = 0.2
    test: float = 0.0
    labelled: int | None = Field(None, ge=1)
    unlabelled: int | None = Field(None, ge=0)

    def limit(self, cohort: Cohort) -> Cohort:
        """Return a view of ``cohort`` with as many labelled and unlabelled training cases as these numbers say.

        The first cases of the split keep their labels; those of the others are not merely unused but out of reach.
        """
        train = [r for r in cohort.records if r.split == "train"]
        with_labels = [r for r in train if r.labels_path is not None]
        wanted = len(with_labels) if self.labelled is None else self.labelled
        if wanted > len(with_labels):
            raise InputError(f"cases.labelled={wanted}, but only {len(with_labels)} training cases have labels")
        kept = {r.name for r in with_labels[:wanted]}
        hidden = [replace(r, labels_path=None) for r in train if r.name not in kept]
        if self.unlabelled is not None:
            if self.unlabelled > len(hidden):
                raise InputError(f"cases.unlabelled={self.unlabelled}, but only {len(hidden)} training cases are left")
            hidden = hidden[: self.unlabelled]
        views = {r.name: r for r in (*(r for r in train if r.name in kept), *hidden)}
        records = (r if r.split != "train" else views.get(r.name) for r in cohort.records)
        return replace(cohort, records=tuple(record for record in records if record is not None))


class Plan(Settings):
    """Settings of the whole main job; a preset is one of these.

    Attributes:
        uses: name of the generator, whose settings ``generator`` holds.
        pseudo_labels: whether the unlabelled training cases teach the generator with labels that a segmenter of the
            labelled ones gives them (arm baseline_equal_updates); else they teach it with their images alone.
        select: rules that a synthetic pair has to pass, as in ``voxpair sample --select``; None keeps every pair.
        synthetic_per_real: synthetic pairs drawn per labelled training case (the papers: 3).
        pretrain_on: "synthetic" images alone, as in the papers, or "all" training images, real ones too.
        protocols: which segmenters are fitted, in order.
        seeds: segmenters per protocol that differ in nothing but their seed.
    """

    about: str = ""
    cases: CaseCounts = CaseCounts()
    phantom: PhantomSettings = PhantomSettings()
    uses: Literal["joint_ldm"] = "joint_ldm"
    generator: JointLDMSettings = JointLDMSettings()
    pseudo_labels: bool = False
    select: SelectionSettings | None = None
    synthetic_per_real: float = Field(3.0, gt=0)
    pretraining: PretrainSettings = PretrainSettings()
    pretrain_on: str = Field("all", pattern="^(all|synthetic)$")
    segmentation: SegmenterSettings = SegmenterSettings()
    audit: AuditSettings = AuditSettings()
    protocols: tuple[str, ...] = tuple(PROTOCOLS)
    seeds: int = Field(1, ge=1)

    @field_validator("protocols")
    @classmethod
    def _known(cls, protocols: tuple[str, ...]) -> tuple[str, ...]:
        if not protocols or not set(protocols) <= set(PROTOCOLS):
            raise ValueError(f"protocols are {', '.join(PROTOCOLS)}; got {', '.join(protocols) or 'none'}")
        return protocols

    def using(self, generator: str, settings: Settings) -> Plan:
        """Return this plan with another generator and its settings.

        >>> from voxpair.generators.medgen3d.generator import MedGen3DSettings
        >>> Plan().using("medgen3d", MedGen3DSettings()).uses
        'medgen3d'
        """
        kept = {name: getattr(self, name) for name in Plan.model_fields if name not in ("uses", "generator")}
        return PLANS[generator](generator=settings, **kept)


class MedGen3DPlan(Plan):
    """A plan whose generator is MedGen3D."""

    uses: Literal["medgen3d"] = "medgen3d"
    generator: MedGen3DSettings = MedGen3DSettings()


class DomainRandomisationPlan(Plan):
    """A plan whose generator is domain randomisation."""

    uses: Literal["domain_randomisation"] = "domain_randomisation"
    generator: DomainRandomisationSettings = DomainRandomisationSettings()


PLANS: dict[str, type[Plan]] = {
    "joint_ldm": Plan,
    "medgen3d": MedGen3DPlan,
    "domain_randomisation": DomainRandomisationPlan,
}
"""Generator to the plan that holds its settings."""
