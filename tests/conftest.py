"""What holds for all tests."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws does not depend on the tests before it, nor on the process that runs it."""
    torch.manual_seed(0)
