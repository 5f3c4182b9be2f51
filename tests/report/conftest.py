"""A complete run folder, its report drawn once, and reports without pictures."""

from pathlib import Path

import pytest
from run_files import complete_run

from voxpair.report import charts, figures
from voxpair.report.page import write_report


@pytest.fixture
def run_folder(tmp_path) -> Path:
    return complete_run(tmp_path / "run")


@pytest.fixture(scope="session")
def drawn_page(tmp_path_factory) -> Path:
    """The report of a complete run with all its pictures, drawn once."""
    return write_report(complete_run(tmp_path_factory.mktemp("drawn")))


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures have tests of their own; where only words matter, they need not be drawn again."""
    monkeypatch.setattr(figures, "tile_sheet", lambda *_: figures.Layers(b"", b""))
    for name in ("curves", "dice_plot", "difference_plot", "histograms", "spectra", "similarities"):
        monkeypatch.setattr(charts, name, lambda *_, **__: b"")
