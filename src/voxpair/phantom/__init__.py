"""Phantom hearts: a procedural cardiac CT with eight labelled structures; NumPy and SciPy only.

The order of work: ``anatomy`` draws a patient as numbers, ``heart`` and ``thorax`` turn these into implicit surfaces
(``shapes``), ``contrast`` says how bright each is, ``acquisition`` makes a scan of it, ``heart_cohort`` a cohort.
"""

from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.heart_cohort import PhantomSettings, draw_parameters, heart_case, heart_cases, render

__all__ = ["HeartParameters", "PhantomSettings", "draw_parameters", "heart_case", "heart_cases", "render"]
