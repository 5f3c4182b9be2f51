"""Generators: real pairs in, synthetic pairs out. Each keeps ``core.interfaces.PairGenerator``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from voxpair.core.errors import InputError
from voxpair.core.interfaces import PairGenerator

if TYPE_CHECKING:  # importing these takes a second, listing the generators none
    from voxpair.cohorts.preprocess import PreprocessSettings
    from voxpair.core.settings import Settings

GENERATORS: dict[str, str] = {
    "joint_ldm": "voxpair.generators.joint_ldm.generator:JointLDM",
    "medgen3d": "voxpair.generators.medgen3d.generator:MedGen3D",
    "domain_randomisation": "voxpair.generators.domain_randomisation.generator:DomainRandomisation",
}
"""Name to module and class; a string, so that listing the generators does not import torch."""

_SETTINGS = {
    "medgen3d": "voxpair.generators.medgen3d.presets:medgen3d_settings",
    "domain_randomisation": "voxpair.generators.domain_randomisation.generator:domain_randomisation_settings",
}


def generator_class(name: str) -> type[PairGenerator]:
    """Return the class of a generator by its name on the command line.

    >>> generator_class("joint_ldm").steps
    ('autoencoder', 'diffusion')
    """
    if name not in GENERATORS:
        raise InputError(f"no generator {name!r}; there are {', '.join(GENERATORS)}")
    return _named(GENERATORS[name])


def preset_settings(name: str, preset: str, preprocess: PreprocessSettings) -> Settings:
    """Return the settings of a generator for a preset's name, on the grid of the preset's other parts.

    Those of ``joint_ldm`` are in ``voxpair.presets`` itself.
    """
    return _named(_SETTINGS[name])(preset, preprocess)


def _named(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)
