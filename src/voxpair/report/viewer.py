"""The 3D view: volumes as text inside the page, NiiVue that draws them, and a policy that lets nothing else run.

Takes previews, gives what the template puts into the page:

    volumes   small NIfTI files (uint8 grey values and uint8 classes, RAS+), gzipped, base64
    library   the vendored NiiVue, gzipped, base64; the page unpacks it when the view is opened, so that it stays quick
    script    ours, run at once; it only waits for the view to be opened
    policy    a Content-Security-Policy: scripts by their digest alone, pictures from the page itself, no network

NiiVue is vendored in ``viewer/`` with its licence; see the README there.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from voxpair.report.results import Preview, Structure
from voxpair.report.sheets import displayed

LONGEST_SIDE = 96  # voxels; four pairs of each kind then stay below 10 MB of text
SHOWN = {"real": 4, "synthetic": 4, "rejected": 2}
_FOLDER = Path(__file__).parent / "viewer"


@dataclass(frozen=True)
class Viewer:
    """What the page needs to show volumes; all of it is ASCII text."""

    volumes: Sequence[Mapping[str, str]]
    structures: Sequence[Mapping[str, Any]]
    library: str
    script: str
    licences: str
    policy: str
    longest_side: int = LONGEST_SIDE


def viewer(
    previews: Mapping[str, Preview], structures: Sequence[Structure], window: tuple[float, float] | None
) -> Viewer | None:
    """Return the view of real, synthetic and rejected pairs; None where there is none of them."""
    volumes = [
        {
            "kind": kind,
            "name": name,
            "image": _packed(_nifti(_grey(preview, name, window), preview.spacing_mm[name])),
            "labels": _packed(_nifti(preview.labels[name].astype(np.uint8), preview.spacing_mm[name])),
        }
        for kind, count in SHOWN.items()
        if (preview := previews.get(kind)) is not None
        for name in list(preview.images)[:count]
    ]
    if not volumes:
        return None
    shown = [preview for kind, preview in previews.items() if kind in SHOWN]
    packed, library = _library()
    source = (_FOLDER / "viewer.js").read_text(encoding="utf-8")
    return Viewer(
        volumes=volumes,
        structures=_named(structures, max(int(preview.labels[n].max()) for preview in shown for n in preview.labels)),
        library=packed,
        script=source,
        licences=(_FOLDER / "LICENSES.txt").read_text(encoding="utf-8"),
        policy=policy(library, source.encode()),
    )


def policy(*scripts: bytes) -> str:
    """Return a Content-Security-Policy under which these scripts run, no others, and nothing is loaded.

    >>> policy()
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    """
    digests = [f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'" for script in scripts]
    allowed = [f"script-src {' '.join(digests)}"] if digests else []
    rules = ["default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", *allowed]
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])


def _named(structures: Sequence[Structure], highest: int) -> list[dict[str, str]]:
    """Return name and colour of class 1, 2, ... to ``highest``, white where the label table has none."""
    known = [{"name": s.name, "colour": s.colour} for s in structures]
    return known + [{"name": f"class {i}", "colour": "#ffffff"} for i in range(len(known) + 1, highest + 1)]


@cache
def _library() -> tuple[str, bytes]:
    content = (_FOLDER / "niivue.umd.js").read_bytes()
    return _packed(content), content


def _grey(preview: Preview, name: str, window: tuple[float, float] | None) -> np.ndarray:
    return np.rint(255 * displayed(preview.images[name], preview.intensity_range, window)).astype(np.uint8)


def _nifti(volume: np.ndarray, spacing_mm: Sequence[float]) -> bytes:
    """Return a NIfTI file of ``volume`` (X, Y, Z), thinned to ``LONGEST_SIDE``, its centre at the origin."""
    steps = [-(-length // LONGEST_SIDE) for length in volume.shape]
    thinned = np.ascontiguousarray(volume[tuple(slice(None, None, step) for step in steps)])
    size_mm = np.multiply(spacing_mm, steps)
    affine = np.diag([*size_mm, 1.0])
    affine[:3, 3] = -size_mm * (np.array(thinned.shape) - 1) / 2
    file = nib.Nifti1Image(thinned, affine)
    file.header.set_xyzt_units("mm")
    return file.to_bytes()


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, mtime=0)).decode("ascii")
