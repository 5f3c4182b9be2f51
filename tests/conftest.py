"""Fixtures shared by all tests."""

from pathlib import Path

import pytest
import torch

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real volumes that lies beside the checkout on a developer's machine."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real volumes are not beside this checkout (../shared/data); fixtures in tests/ cover the code paths")
    return SHARED_DATA


@pytest.fixture(autouse=True, scope="session")
def _two_threads() -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))
