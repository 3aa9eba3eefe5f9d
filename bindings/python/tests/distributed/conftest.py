from __future__ import annotations

from collections.abc import Iterator

import pytest

from distributed.ranks import Ranks


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Four ranks; a test may use fewer."""
    started = Ranks(4)
    yield started
    started.close()
