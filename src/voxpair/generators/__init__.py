"""Generators: real pairs in, synthetic pairs out. Each keeps ``core.interfaces.PairGenerator``."""

from __future__ import annotations

from importlib import import_module

from voxpair.core.errors import InputError
from voxpair.core.interfaces import PairGenerator

GENERATORS: dict[str, str] = {
    "joint_ldm": "voxpair.generators.joint_ldm.generator:JointLDM",
    "medgen3d": "voxpair.generators.medgen3d.generator:MedGen3D",
}
"""Name to module and class; a string, so that listing the generators does not import torch."""


def generator_class(name: str) -> type[PairGenerator]:
    """Return the class of a generator by its name on the command line.

    >>> generator_class("joint_ldm").steps
    ('autoencoder', 'diffusion')
    """
    if name not in GENERATORS:
        raise InputError(f"no generator {name!r}; there are {', '.join(GENERATORS)}")
    module, _, attribute = GENERATORS[name].partition(":")
    return getattr(import_module(module), attribute)
