"""One function per verb of the command line: folders in, folders out. Everything a verb does is one call here.

    cohorts        make_phantoms, import_scans, check, split
    generators     fit, sample, reconstruct
    selection      make_selection
    segmentation   pretrain, segment_fit, segment_predict, patients_behind
    results        evaluate_masks, evaluate_pairs, audit, write_report
    claims         how a stage owns its folder, resumes, and refuses what another call left there

torch is imported inside the stages that compute with it, so that the others start at once.
"""

from voxpair.stages.claims import Session, opened, resolve_device
from voxpair.stages.cohorts import Scans, check, import_scans, make_phantoms, split, split_if_needed
from voxpair.stages.generators import fit, reconstruct, sample
from voxpair.stages.results import audit, evaluate_masks, evaluate_pairs, write_report
from voxpair.stages.segmentation import is_made, patients_behind, pretrain, segment_fit, segment_predict
from voxpair.stages.selection import Selection, make_selection

__all__ = [
    "Scans",
    "Selection",
    "Session",
    "audit",
    "check",
    "evaluate_masks",
    "evaluate_pairs",
    "fit",
    "import_scans",
    "is_made",
    "make_phantoms",
    "make_selection",
    "opened",
    "patients_behind",
    "pretrain",
    "reconstruct",
    "resolve_device",
    "sample",
    "segment_fit",
    "segment_predict",
    "split",
    "split_if_needed",
    "write_report",
]
