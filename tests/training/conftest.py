"""Most tests of training train the row "small"."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def zoo_with_small(small_row: None) -> None:
    """In every module of this folder."""
