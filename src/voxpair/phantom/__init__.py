"""Phantom hearts: a procedural cardiac CT with labelled structures; NumPy and SciPy only.

The order of work: ``population`` draws a patient, ``anatomy``, as numbers, and ``cycle`` says how full its chambers
are; ``heart`` and ``thorax`` turn these into implicit surfaces (``shapes``), ``contrast`` says how bright each is, and
``scene`` puts all of it on a grid. ``acquisition`` makes a scan of the scene (``painting``; fast: ``kernels``;
physical: ``physics``, ``projection``, ``tomography``; MRI-like: ``magnetic``), ``annotation`` is its reader, and
``heart_cohort`` makes cases of it all.
"""

from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.heart_cohort import (
    Phantom,
    PhantomSettings,
    draw_parameters,
    heart_case,
    heart_cases,
    make_phantom,
    render,
)

__all__ = [
    "HeartParameters",
    "Phantom",
    "PhantomSettings",
    "draw_parameters",
    "heart_case",
    "heart_cases",
    "make_phantom",
    "render",
]
