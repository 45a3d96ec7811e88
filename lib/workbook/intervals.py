"""How far to trust a mean: bootstrap intervals and paired differences that respect which rows belong together.

Articles on one event are not independent, so what is drawn again is whole sources, never single rows: the clustered bootstrap
(Field and Welsh, 2007, https://doi.org/10.1111/j.1467-9868.2007.00593.x). Percentile intervals are a little short for few
sources: with 16 of them, a 95 % interval of a mean holds the truth in about 92 % of samples, with 60 in about 94 %.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np


class Difference(NamedTuple):
    """The mean of paired differences, its 95 % interval, and how often chance alone gives one at least as large (two-sided)."""

    mean: float
    low: float
    high: float
    p: float


def _sums(values, sources) -> np.ndarray:
    """(number of sources,): the sum of `values` in each source."""
    _, group = np.unique(np.asarray(sources, dtype=str), return_inverse=True)
    return np.bincount(group, weights=np.asarray(values, dtype=float))


@lru_cache(maxsize=4)
def _draws(sources: int, draws: int, seed: int) -> np.ndarray:
    """(draws, sources): how often each draw takes each source; kept, because every score of a table is drawn from the same rows."""
    return np.random.default_rng(seed).multinomial(sources, np.full(sources, 1 / sources), size=draws).astype(float)


@lru_cache(maxsize=4)
def _signs(sources: int, draws: int, seed: int) -> np.ndarray:
    """(draws, sources) of -1 and 1."""
    return np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, sources))


def interval(scores, sources, *, weights=None, draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high): a 95 % percentile bootstrap of the mean over rows, drawn by source.

    scores, sources: one per row. weights: what each row counts, for a score that is a share of something (default: 1 each);
    (0, 0, 0) if nothing counts. Raises ValueError for no rows, or if there are not as many scores as sources.
    """
    if len(scores) != len(sources) or not len(scores):
        raise ValueError(f"{len(scores)} scores and {len(sources)} sources: give one of each per row, and at least one row")
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=float)
    totals, counts = _sums(np.asarray(scores) * weights, sources), _sums(weights, sources)
    if not counts.sum():
        return 0.0, 0.0, 0.0
    drawn = _draws(len(totals), draws, seed)
    counted = drawn @ counts
    means = (drawn @ totals)[counted > 0] / counted[counted > 0]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(totals.sum() / counts.sum()), float(low), float(high)


def p_value(differences, sources, *, draws: int = 2000, seed: int = 0) -> float:
    """Two-sided p-value of a mean difference by a permutation test that flips the sign of whole sources.

    If two systems are equally good, which of them got which answer to an event is a toss of a coin. p is the share of `draws`
    tosses whose sum is at least as large as the one seen, this one counted too, so that it is never 0 (approximate
    randomization, https://aclanthology.org/W05-0908; why not a t-test: https://aclanthology.org/P18-1128).
    """
    sums = _sums(differences, sources)
    larger = np.abs(_signs(len(sums), draws, seed) @ sums) >= abs(sums.sum()) * (1 - 1e-9) - 1e-12
    return float((larger.sum() + 1) / (draws + 1))


def ratio(mine, theirs, sources, *, draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """(ratio, low, high): the sum of `mine` in percent of the sum of `theirs`, with its 95 % interval, paired by row and drawn by source.

    (0, 0, 0) if `theirs` are all zero. Raises ValueError for lists of unequal length.
    """
    if len(mine) != len(theirs):
        raise ValueError(f"{len(mine)} and {len(theirs)} scores: a ratio needs the same rows in both")
    tops, bottoms = _sums(mine, sources), _sums(theirs, sources)
    if not bottoms.sum():
        return 0.0, 0.0, 0.0
    drawn = _draws(len(tops), draws, seed)
    below = drawn @ bottoms
    low, high = np.quantile(100 * (drawn @ tops)[below > 0] / below[below > 0], [0.025, 0.975])
    return float(100 * tops.sum() / bottoms.sum()), float(low), float(high)


def verdict(found: Difference) -> str:
    """What a paired difference allows one to say, and no more: 'better', 'worse', or that these rows do not tell.

    Both the interval and the p-value must be clear: with few sources the interval alone is too short.
    """
    clear = found.p < 0.05 and (found.low > 0 or found.high < 0)
    return ("better" if found.mean > 0 else "worse") if clear else "not told apart"


def difference(mine, theirs, sources, *, draws: int = 2000, seed: int = 0) -> Difference:
    """`mine` minus `theirs`, paired by row: mean, 95 % interval and p-value. Raises ValueError for lists of unequal length."""
    if len(mine) != len(theirs):
        raise ValueError(f"{len(mine)} and {len(theirs)} scores: a paired difference needs the same rows in both")
    each = np.asarray(mine, dtype=float) - np.asarray(theirs, dtype=float)
    return Difference(*interval(each, sources, draws=draws, seed=seed), p_value(each, sources, draws=draws, seed=seed))
