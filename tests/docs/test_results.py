"""docs/results.md says what the files under benchmarks/ say."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_results_page_is_made_from_the_files():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks/tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert (ROOT / "docs/results.md").read_text(encoding="utf-8") == tables.page(), "run: python benchmarks/tables.py"
    assert "benchmarks/hippocampus/" in tables.page()
