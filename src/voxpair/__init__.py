"""voxpair: learn from a few annotated 3D scans, generate paired volumes, turn them into better segmentation.

Everything that a verb of the command line does is one call here; what is heavy is imported when it is first used.

>>> import voxpair
>>> voxpair.plan("unit").segmentation.backbone.network
'unet3d'
"""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "Case": "core.case",
    "Cohort": "cohorts.cohort",
    "CohortWriter": "cohorts.cohort",
    "InputError": "core.errors",
    "LabelTable": "core.labels",
    "Plan": "plans",
    "RunError": "core.errors",
    "Scans": "stages",
    "Selection": "stages",
    "Session": "stages",
    "VoxpairError": "core.errors",
    "audit": "stages",
    "check": "stages",
    "demo": "pipeline",
    "evaluate_masks": "stages",
    "evaluate_pairs": "stages",
    "fit": "stages",
    "import_scans": "stages",
    "make_phantoms": "stages",
    "plan": "presets",
    "pretrain": "stages",
    "reconstruct": "stages",
    "Sweep": "study",
    "run": "pipeline",
    "run_study": "study",
    "sample": "stages",
    "segment_fit": "stages",
    "segment_predict": "stages",
    "split": "stages",
    "write_report": "stages",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'voxpair' has no attribute {name!r}")
    return getattr(import_module(f"voxpair.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_EXPORTS)
