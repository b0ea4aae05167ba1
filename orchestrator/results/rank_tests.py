"""Tests that look at ranks alone, for a handful of figures with ties among them, and Holm's correction.

scipy has the tests, too, but with ties only an approximation that few figures do not bear, or permutations that take
a second for each. Here all arrangements of the ranks are gone through where there are ARRANGEMENTS of them at most, and
as many are drawn where there are more; the arrangements are kept for the next comparison of the same size.
"""

import itertools
import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

ARRANGEMENTS = 10_000
SEED = 20130401
"""Of the arrangements drawn: the same figures always give the same p."""
_ROUNDING = 1e-9


class RankTest(NamedTuple):
    """What came of a test."""

    p: float
    """Two-sided: how often chance alone does as much."""
    p_least: float
    """The smallest p that so few figures can have, whatever they are."""
    effect: float
    """From -1 to 1; above 0 when the second side is larger."""


def mann_whitney(base: Sequence[float], new: Sequence[float]) -> RankTest:
    """Whether one side tends to be larger (Mann and Whitney 1947). The effect is Cliff's delta."""
    import numpy as np
    from scipy import stats

    ranks = stats.rankdata([*new, *base])
    middle = len(new) * (len(ranks) + 1) / 2
    sums = ranks[_choices(len(ranks), len(new))].sum(axis=1) - middle
    seen = float(ranks[: len(new)].sum()) - middle
    least = min(1.0, 2 / math.comb(len(ranks), len(new)))
    effect = 2 * seen / (len(base) * len(new))
    return RankTest(_share(np.abs(sums), abs(seen), math.comb(len(ranks), len(new))), least, effect)


def signed_rank(differences: Sequence[float]) -> RankTest:
    """Whether differences tend to one side of 0 (Wilcoxon 1945). The effect is the rank-biserial correlation.

    Differences of 0 say nothing about the side and are left out of the test; they lessen the effect.
    """
    import numpy as np
    from scipy import stats

    given = np.asarray(differences, dtype=float)
    changed = given[np.abs(given) > _ROUNDING]
    least = 2.0 ** (1 - len(given))
    if not len(changed):
        return RankTest(1.0, least, 0.0)
    ranks = stats.rankdata(np.round(np.abs(changed), 12))
    seen = float((ranks * np.sign(changed)).sum())
    sums = _signs(len(changed)) @ ranks
    effect = seen / float(ranks.sum()) * len(changed) / len(given)
    return RankTest(_share(np.abs(sums), abs(seen), 2.0 ** len(changed)), least, effect)


def holm(values: Sequence[float]) -> list[float]:
    """Holm's correction (1979): p multiplied by how many are left, never falling, at most 1."""
    corrected = [1.0] * len(values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, values[index] * (len(values) - rank)))
        corrected[index] = highest
    return corrected


def _share(sums: Any, seen: float, arrangements: float) -> float:
    """How many of the arrangements are as far out as what was seen; what was seen is one of them."""
    as_far = int((sums >= seen - _ROUNDING).sum())
    return as_far / len(sums) if arrangements <= ARRANGEMENTS else (as_far + 1) / (len(sums) + 1)


@cache
def _choices(count: int, chosen: int) -> Any:
    """Ways to choose `chosen` of `count`: all of them, or as many as ARRANGEMENTS drawn."""
    import numpy as np

    if math.comb(count, chosen) <= ARRANGEMENTS:
        return np.array(list(itertools.combinations(range(count), chosen)))
    chance = np.random.default_rng(SEED)
    return np.argsort(chance.random((ARRANGEMENTS, count)), axis=1)[:, :chosen]


@cache
def _signs(count: int) -> Any:
    """Ways to give `count` differences a sign."""
    import numpy as np

    if 2**count <= ARRANGEMENTS:
        return np.array(list(itertools.product((-1, 1), repeat=count)))
    return np.random.default_rng(SEED).choice((-1, 1), (ARRANGEMENTS, count))
