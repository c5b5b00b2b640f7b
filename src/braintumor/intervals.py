"""Estimate 95 % intervals of measured values over groups of images.

They come from resampling groups. Where that shows no spread, as where all answers are right or none is, it cannot tell
how far off a value may be: a rate then gets the exact interval of Clopper and Pearson, anything else gets none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]
Statistic = Callable[[Floats], Mapping[str, Floats]]

FEW: Final = 30  # images; a rate of fewer says little
FEW_MARK: Final = "†"
TAIL: Final = 0.025  # probability beyond either end of an interval
FLAT: Final = 1e-9  # rates of a few images are rounded by 1e-16, and differ by more than this where they differ at all


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval on n images; None where the images do not determine it.

    Attributes:
        few: whether there are fewer than 30 images, on which no rate says much.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    few: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "few", self.n < FEW)  # the only way to set a field of a frozen dataclass

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """Return the estimate that a report.json holds; reports of earlier versions do not say `few`.

        Raises:
            KeyError: a field is missing.
        """
        return cls(record["value"], record["low"], record["high"], record["n"])


def mean(values: Floats, groups: Integers) -> Estimate:
    """Return the mean of (N,) values, with its interval over groups (N,).

    Means of values from 0 to 1 are taken for rates; others have no interval where resampling shows no spread.
    """
    is_rate = bool(((values >= 0) & (values <= 1)).all())
    rates = {"mean": groups_among(np.ones(len(values), np.bool_), groups)} if is_rate else None
    results = interval(lambda weights: {"mean": weights @ values / weights.sum(axis=1)}, groups, rates=rates)
    return estimate(results["mean"], (), len(values))


def accuracy(right: Bools, groups: Integers) -> Estimate:
    """Return the fraction of (N,) answers that are right, with its interval over groups (N,)."""
    return mean(right.astype(np.float64), groups)


def accuracy_difference(first: Bools, second: Bools, groups: Integers) -> Estimate:
    """Return the accuracy of the first minus that of the second on (N,) paired answers, with its interval over groups.

    Where resampling shows no spread, the interval follows from that of the share of images on which only one is right;
    it reaches as far to both sides where there is no such image.
    """
    gain = first.astype(np.float64) - second
    results = interval(lambda weights: {"difference": weights @ gain / weights.sum(axis=1)}, groups)
    value, low, high = results["difference"]
    # The same gain on all images: always 0, or always one of the two is right, which `clopper_pearson` knows as rates.
    if np.isnan(low) and len(np.unique(gain)) == 1:
        least, most = clopper_pearson(np.abs(value), groups_among(np.ones(len(gain), np.bool_), groups))
        low, high = (-most, most) if value == 0 else np.sort(np.sign(value) * np.array([least, most]))
    return estimate((value, np.asarray(low), np.asarray(high)), (), len(gain))


def estimate(arrays: tuple[Floats, Floats, Floats], index: tuple[int, ...], n: int) -> Estimate:
    """Return one entry of a result of `interval` as plain numbers."""
    value, low, high = (None if np.isnan(array[index]) else float(array[index]) for array in arrays)
    return Estimate(value, low, high, n)


def interval(
    statistic: Statistic,
    groups: Integers,
    *,
    rates: Mapping[str, Integers] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[Floats, Floats, Floats]]:
    """Return (value, low, high) of each statistic: the percentile bootstrap over groups, 2.5 % to 97.5 %.

    Resamples in which a statistic is NaN do not count for it. The interval is widened to the value where resampling
    shifts a statistic, as it raises the calibration error. Without any spread, low and high are those of
    `clopper_pearson` for a rate and NaN for another statistic; so they are with fewer than two groups, of which only
    rates of 0 and 1 have an interval.

    Args:
        statistic: maps weights (R, N) to named arrays (R, ...).
        groups: (N,) any numbers.
        rates: for each statistic that is a rate, the number of groups with images that it counts, as arrays (...).
        resamples: number of resamples, each of as many groups as there are, drawn with replacement.
        seed: of the resampling; the same seed gives the same interval.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3; cluster resampling after
    Field and Welsh (2007), doi 10.1111/j.1467-9868.2007.00593.x.
    """
    values = {name: array[0] for name, array in statistic(np.ones((1, len(groups)))).items()}
    drawn = _bootstrap(statistic, groups, values, resamples=resamples, seed=seed)
    results = {}
    for name, value in values.items():
        low, high = np.minimum(drawn[name][0], value), np.maximum(drawn[name][1], value)
        groups_behind = (rates or {}).get(name, np.zeros(value.shape, np.int64))
        results[name] = (value, *_with_spread(value, low, high, groups_behind))
    return results


def _bootstrap(
    statistic: Statistic, groups: Integers, values: Mapping[str, Floats], *, resamples: int, seed: int
) -> dict[str, tuple[Floats, Floats]]:
    """Return the 2.5 % and 97.5 % points of each statistic over drawn groups; NaN with fewer than two groups."""
    names, members = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return {name: (np.full_like(value, np.nan), np.full_like(value, np.nan)) for name, value in values.items()}
    # Weights instead of copied images: a group drawn twice counts twice, and one statistic serves value and resamples.
    random = np.random.default_rng(seed)
    drawn = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)  # (R, groups)
    size = max(1, 2_000_000 // len(groups))  # bounds the memory of the (R, N) arrays
    parts = [statistic(drawn[i : i + size, members].astype(np.float64)) for i in range(0, resamples, size)]
    return {name: _percentiles(np.concatenate([part[name] for part in parts])) for name in values}


def _percentiles(samples: Floats) -> tuple[Floats, Floats]:
    """Return the 2.5 % and 97.5 % points along the first axis; NaN entries are left out."""
    columns = samples.reshape(len(samples), -1).T
    defined = [column[~np.isnan(column)] for column in columns]
    points = np.array([np.percentile(column, [2.5, 97.5]) if len(column) else (np.nan, np.nan) for column in defined])
    return points[:, 0].reshape(samples.shape[1:]), points[:, 1].reshape(samples.shape[1:])


def _with_spread(value: Floats, low: Floats, high: Floats, groups: Integers) -> tuple[Floats, Floats]:
    """Return low and high, where there is no spread those of `clopper_pearson`, which are NaN without groups."""
    # With a single group nothing was resampled (NaN). A rate of 0 or 1 then counts as one trial; for any other nothing
    # is known of how groups differ.
    extreme = (value < FLAT) | (value > 1 - FLAT)
    flat = (high - low < FLAT) | (np.isnan(low) & extreme)
    exact = clopper_pearson(value.clip(0, 1), groups)
    return np.where(flat, exact[0], low), np.where(flat, exact[1], high)


def clopper_pearson(rate: Floats, n: Integers) -> tuple[Floats, Floats]:
    """Return the ends of the exact two-sided 95 % interval of a rate observed in n independent trials; NaN for n = 0.

    For a rate of 1 the lower end is 0.025 ** (1 / n). A rate between two counts is used as it is, as is usual where
    clusters are the trials.

    Source: Clopper and Pearson (1934), doi 10.1093/biomet/26.4.404; rates of clusters after Korn and Graubard (1998),
    Survey Methodology 24, 193-201, with the clusters as the effective number of trials.
    """
    trials = np.maximum(n, 1).astype(np.float64)
    # Exactly 0 or n where the rate is so but for rounding: the ends 0 and 1 belong to these counts alone.
    successes = np.where(rate > 1 - FLAT, trials, np.where(rate < FLAT, 0, rate * trials))
    # `np.where` computes both branches; the function is not defined for a parameter of 0, so it gets a tiny one there.
    tiny = np.finfo(np.float64).tiny
    low = np.where(successes > 0, betaincinv(np.maximum(successes, tiny), trials - successes + 1, TAIL), 0.0)
    high = np.where(successes < trials, betaincinv(successes + 1, np.maximum(trials - successes, tiny), 1 - TAIL), 1.0)
    return np.where(n > 0, low, np.nan), np.where(n > 0, high, np.nan)


def groups_among(chosen: Bools, groups: Integers) -> Integers:
    """Return the number of groups with chosen images: from flags (N,) a number (), from flags (N, K) numbers (K,)."""
    names, members = np.unique(groups, return_inverse=True)
    present = np.zeros((len(names), *chosen.shape[1:]), np.bool_)
    np.logical_or.at(present, members, chosen)
    counts: Integers = np.asarray(present.sum(axis=0), np.int64)
    return counts
