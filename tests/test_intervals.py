"""Intervals and p-values do what their names promise, in simulation."""

import numpy as np
import pytest

from workbook.intervals import Difference, difference, interval, p_value, ratio, verdict


def clustered(chance, sources: int, mean: float):
    """(values, sources) of two rows per source: what a source adds is shared by its rows."""
    values = mean + chance.normal(0, 10, (sources, 1)) + chance.normal(0, 5, (sources, 2))
    return values.ravel(), np.repeat(np.arange(sources), 2)


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    chance, covered = np.random.default_rng(1), 0
    for _ in range(400):
        values, sources = clustered(chance, 60, 50)
        _, low, high = interval(values, sources, draws=500)
        covered += low <= 50 <= high
    assert 0.90 <= covered / 400 <= 0.98


def test_a_p_value_below_five_percent_is_seen_in_five_percent_of_equal_systems():
    chance = np.random.default_rng(2)
    low = sum(p_value(*clustered(chance, 16, 0), draws=400) <= 0.05 for _ in range(400))
    assert 0.02 <= low / 400 <= 0.09


def test_articles_on_one_event_make_the_interval_wider_and_the_p_value_larger():
    values = [0.0, 0.0, 0.0, 100.0, 100.0, 100.0] * 5
    apart, together = ([str(i) for i in range(30)], [str(i // 3) for i in range(30)])
    width = lambda sources: np.diff(interval(values, sources)[1:])[0]  # noqa: E731
    assert width(together) > 1.3 * width(apart)
    assert p_value([8.0, 8.0, 8.0, -2.0, -2.0, -2.0] * 2, [str(i // 3) for i in range(12)]) > p_value(
        [8.0, 8.0, 8.0, -2.0, -2.0, -2.0] * 2, list(range(12))
    )


def test_a_p_value_by_hand():
    # five sources, all +1: of the 2^5 = 32 ways to flip signs, two (all kept, all flipped) give a sum as large as 5: p = 1/16
    assert p_value([1.0] * 5, list("abcde"), draws=20_000) == pytest.approx(1 / 16, abs=0.006)
    assert p_value([0.0] * 5, list("abcde")) == 1 and p_value([1.0, -1.0], list("ab")) == 1


def test_a_weighted_mean_by_hand():
    # shares 100 % of one match and 0 % of three: (100 * 1 + 0 * 3) / 4 = 25, and no draw can leave 0 to 100
    mean, low, high = interval([100, 0], ["a", "b"], weights=[1, 3])
    assert mean == 25 and (low, high) == (0, 100)
    assert interval([100, 50], ["a", "b"], weights=[0, 0]) == (0, 0, 0)
    assert interval([70.0], ["a"]) == (70, 70, 70)


def test_a_paired_difference_sees_what_two_intervals_hide():
    chance = np.random.default_rng(3)
    hard, sources = clustered(chance, 30, 50)
    better = hard + 3 + chance.normal(0, 1, 60)
    found = difference(better, hard, sources)
    assert found.low > 0 and found.p < 0.01 and found.mean == pytest.approx(np.mean(better - hard))
    assert interval(better, sources)[1] < interval(hard, sources)[2], "the two intervals overlap"


def test_the_result_does_not_depend_on_the_order_of_rows_and_bad_input_is_named():
    values, sources = [1.0, 2.0, 5.0], ["a", "b", "a"]
    assert interval(values, sources) == pytest.approx(interval(values[::-1], sources[::-1]))
    with pytest.raises(ValueError, match="3 scores and 2 sources"):
        interval(values, sources[:2])
    with pytest.raises(ValueError, match="the same rows"):
        difference(values, values[:2], sources)


def test_a_ratio_by_hand_and_a_verdict_claims_no_more_than_the_interval():
    # sums 30 and 60: a half, in each source too, so no draw differs
    assert ratio([10, 20], [20, 40], ["a", "b"]) == (50, 50, 50) and ratio([1], [0], ["a"]) == (0, 0, 0)
    mean, low, high = ratio([10, 40], [20, 40], ["a", "b"])
    assert mean == pytest.approx(100 * 50 / 60) and low == 50 and high == 100
    with pytest.raises(ValueError, match="the same rows"):
        ratio([1, 2], [1], ["a", "b"])
    cases = {(0.1, 5): "better", (-5, -0.1): "worse", (-0.1, 5): "not told apart", (0, 0): "not told apart"}
    assert {bounds: verdict(Difference(sum(bounds), *bounds, 0.01)) for bounds in cases} == cases
    assert verdict(Difference(3, 0.1, 5, 0.2)) == "not told apart", "chance alone gives this in one of five tries"
