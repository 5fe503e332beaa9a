from __future__ import annotations

from pathlib import Path

import pytest

from scripts import seed_flights


@pytest.fixture(scope="session")
def flights_of_2013() -> Path:
    """The real year, fetched once into the cache."""
    return seed_flights.download(seed_flights.CACHE)
