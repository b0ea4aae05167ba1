"""Every run of the tests prints the seed of its random choices; TESTBED_SEED brings the same choices back."""

import os
import random

import pytest
from hypothesis import settings

# How long one example takes says more about the machine than about the code.
settings.register_profile("testbed", deadline=None, print_blob=True)
settings.load_profile("testbed")

_SEED = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    # Options reach the workers of pytest-xdist, so that all of them have one seed.
    given = config.option.hypothesis_seed or os.environ.get("TESTBED_SEED")
    seed = int(given or random.SystemRandom().randrange(2**32))
    config.stash[_SEED] = seed
    config.option.hypothesis_seed = str(seed)


def pytest_report_header(config: pytest.Config) -> str:
    return f"random seed: {config.stash[_SEED]} (again: TESTBED_SEED={config.stash[_SEED]})"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of this run, for tests that make random choices of their own."""
    return request.config.stash[_SEED]
