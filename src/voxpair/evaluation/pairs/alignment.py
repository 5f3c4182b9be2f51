"""Do the labels of a synthetic case lie where its image says they lie?

    describe    one labelled case, and what a segmenter makes of its image -> AlignmentFacts, a few numbers a structure
    compare     facts of synthetic and of real cases -> measures; the floor is what real annotations reach

    measure        what it is, per structure                                                              good is
    dice           Dice of the labels with those of a segmenter that has learnt from real cases only      high
    edge_share     share of the label's surface where the image has an edge at all                        as floor
    edge_ratio     mean slope on the label's surface over the mean slope two voxels inside and outside:   as floor
                   above 1 where edges lie on the labels, about 1 where they are strewn
    edge_offset    median signed distance in mm from the label's surface to the edge, positive outside    as floor
    edge_spread    interquartile range of that distance in mm                                             low
    label_shift    length in mm of the rigid shift that would bring labels and edges together             low

Edges, and when one counts as found, are defined in ``edges``. Labels that are too wide move ``edge_offset``; labels
that are displaced do not, since on one side the edge then lies outside and on the other inside: for a shift d,
offset = b + n.d over the outward normals n, which least squares solves for d. Directions that the surface hardly faces
are left at 0.

A structure may look like its neighbour: there is no edge between two parts of one hippocampus. Offset, spread and
shift come from the surface with an edge, and are None where fewer than ``FEWEST_EDGES`` places have one; ``edge_share``
says how much was left out, ``edge_ratio`` counts the whole surface. On a coarse grid the strongest edge may belong to a
neighbour (a thin wall and the lung behind it), in real and synthetic cases alike: read the value beside its floor.

For Dice a structure that only one of the two has counts 0; one that neither has is left out, and counted.
A measure without a structure is the mean over the structures of each case.

Shapes: X Y Z volume axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial

import numpy as np

from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.evaluation.pairs.edges import Edges, edges_of
from voxpair.evaluation.pairs.measures import Better, Measure, compare_means

FEWEST_EDGES = 20
_FACING = 0.15  # a direction counts if the normals' spread along it is this share of the largest


@dataclass(frozen=True)
class StructureAlignment:
    """One structure of one case; what cannot be known is None. The module says what each number means."""

    dice: float | None = None
    edge_share: float | None = None
    edge_ratio: float | None = None
    edge_offset_mm: float | None = None
    edge_spread_mm: float | None = None
    label_shift_mm: float | None = None


@dataclass(frozen=True)
class AlignmentFacts:
    """What is kept of one case: every structure of its label table; ``predicted`` says whether Dice was measured."""

    case: str
    patient: str
    predicted: bool
    structures: Mapping[str, StructureAlignment]

    def row(self) -> dict[str, float | None]:
        """Return the mean over structures of each number, for a table with a line per case."""
        names = [field.name for field in fields(StructureAlignment)]
        means = {name: _mean(self, tuple(self.structures), name) for name in names}
        return {f"alignment_{name}": mean if np.isfinite(mean) else None for name, mean in means.items()}


MEASURES: dict[str, tuple[str, str, Better]] = {
    "dice": ("dice", "", "higher"),
    "edge_share": ("edge_share", "", "floor"),
    "edge_ratio": ("edge_ratio", "", "floor"),
    "edge_offset": ("edge_offset_mm", "mm", "floor"),
    "edge_spread": ("edge_spread_mm", "mm", "lower"),
    "label_shift": ("label_shift_mm", "mm", "lower"),
}
"""Measure to attribute, unit and what is good."""


def describe(
    case: Case, predicted_labels: np.ndarray | None, edges: Mapping[str, Edges] | None = None
) -> AlignmentFacts:
    """Return how labels and image of a case agree.

    Args:
        predicted_labels: (X, Y, Z) label values that a segmenter found in the image; None leaves Dice out.
        edges: :func:`~voxpair.evaluation.pairs.edges.edges_of` the case, if they are known already.

    Raises:
        InputError: the case has no labels, or the predicted ones lie on another grid or hold other values.
    """
    if case.labels is None:
        raise InputError(f"case {case.name}: alignment is that of labels with their image, so the case needs labels")
    if predicted_labels is not None:
        if predicted_labels.shape != case.labels.shape:
            raise InputError(
                f"case {case.name}: the predicted labels have shape {predicted_labels.shape}, the case "
                f"{case.labels.shape}; predict on the case's grid"
            )
        case.label_table.check(predicted_labels, f"case {case.name}, predicted labels")
    edges, found = edges_of(case) if edges is None else edges, {}
    for structure in case.label_table.structures:
        mask = case.labels == structure.value
        guess = None if predicted_labels is None else predicted_labels == structure.value
        found[structure.name] = StructureAlignment(
            dice=None if guess is None else _dice(mask, guess),
            **(_of_edges(edges[structure.name]) if structure.name in edges else {}),
        )
    return AlignmentFacts(case.name, case.patient, predicted_labels is not None, found)


def _dice(mask: np.ndarray, guess: np.ndarray) -> float | None:
    total = int(mask.sum()) + int(guess.sum())
    return 2 * int((mask & guess).sum()) / total if total else None


def _of_edges(edges: Edges) -> dict[str, float]:
    """Return what is known of a structure that is there: nothing, the whole surface's numbers, or all."""
    known: dict[str, float] = {}
    if len(edges.found):
        known["edge_share"] = float(edges.found.mean())
        beside = float(edges.slope_beside.mean())
        if beside > 0:  # not an image of one flat level
            known["edge_ratio"] = float(edges.slope_on.mean()) / beside
    if edges.found.sum() >= FEWEST_EDGES:
        offsets, normals = edges.offset_mm[edges.found], edges.normals[edges.found]
        low, median, high = np.quantile(offsets, (0.25, 0.5, 0.75))
        shift_mm = rigid_shift(offsets, normals)
        known |= {
            "edge_offset_mm": float(median),
            "edge_spread_mm": float(high - low),
            "label_shift_mm": float(np.linalg.norm(shift_mm)),
        }
    return known


def rigid_shift(offsets_mm: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Return (3,) mm along the array axes: how the edges lie displaced from the labels.

    Args:
        offsets_mm: (P,) signed distance from surface to edge.
        normals: (P, 3) outward unit normals.

    >>> ways = np.vstack([np.eye(3), -np.eye(3)])
    >>> rigid_shift(0.5 + ways @ [1.0, 0.0, -2.0], ways).round(6).tolist()
    [1.0, 0.0, -2.0]
    """
    centred = normals - normals.mean(axis=0), offsets_mm - offsets_mm.mean()  # takes b out
    return np.linalg.lstsq(*centred, rcond=_FACING)[0]


def compare(synthetic: Sequence[AlignmentFacts], real: Sequence[AlignmentFacts], seed: int = 0) -> list[Measure]:
    """Return every measure of the module, over all structures and then for each; no Dice where none was measured.

    Args:
        synthetic: generated cases.
        real: annotated cases that the segmenter has not learnt from; may be empty, then there is no floor.

    Raises:
        InputError: the cases have other structures, or only some of them were given to the segmenter.
    """
    everything = [*synthetic, *real]
    tables = list(dict.fromkeys(tuple(facts.structures) for facts in everything))
    if len(tables) > 1:
        raise InputError(f"alignment is compared between cases of one label table, got the structures {tables}")
    predicted = {facts.predicted for facts in everything}
    if len(predicted) > 1:
        without = [facts.case for facts in everything if not facts.predicted]
        raise InputError(f"{len(without)} cases were not given to the segmenter, such as {without[0]}; give it all")
    names = tables[0] if tables else ()
    patients = tuple([facts.patient for facts in side] for side in (synthetic, real))
    measure = partial(compare_means, "alignment", patients=patients, seed=seed)
    found = []
    for name, (attribute, unit, better) in MEASURES.items():
        if name == "dice" and True not in predicted:
            continue
        for structure in (None, *names):
            wanted = names if structure is None else (structure,)
            values = [[_mean(facts, wanted, attribute) for facts in side] for side in (synthetic, real)]
            found.append(measure(name, *values, better=better, structure=structure, unit=unit))
    return found


def _mean(facts: AlignmentFacts, structures: Sequence[str], attribute: str) -> float:
    """Return the mean over the structures where it is known; NaN, which no file ever sees, where it is for none."""
    values = [asdict(facts.structures[name])[attribute] for name in structures]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else np.nan
