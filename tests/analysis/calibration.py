"""Simulate sweeps and count how often what a summary says is true: `make test-statistics`.

Five families of losses, with 5 to 1,000 seeds: do the 95% intervals of summaries and of comparisons
cover the truth, is a setting called worse than the best although all are alike, is a real difference found?
The table is printed, and written into docs/why/statistics.md with --write. The exit status is 1 if a promise
is broken by more than chance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from nnexp.analysis import compare, statistics
from nnexp.analysis.standing import against_best

SEEDS = (5, 10, 20, 50, 1000)
SETTINGS, PAIRED_SEEDS = 12, 20
# The standard deviation of the logarithm of the epochs that a network takes.
SPREAD = 0.4
PAGE = Path(__file__).parents[2] / "docs" / "why" / "statistics.md"
BEGIN, END = "<!-- table of make test-statistics -->\n", "<!-- end of the table -->\n"
Floats = NDArray[np.float64]
Change = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Family:
    """A distribution of losses: how to draw it, to make it one standard deviation worse, and what is seen."""

    draw: Callable[[np.random.Generator, tuple[int, ...]], Floats]
    worse: Change
    seen: Change = np.asarray


def normal(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    return rng.normal(size=size)


def skewed(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    return rng.lognormal(size=size)


def heavy(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    return rng.standard_t(3, size=size)


def xor(share: float) -> Callable[[np.random.Generator, tuple[int, ...]], Floats]:
    """Losses of XOR with two hidden neurons: a share of the seeds learns it, the others stay at 0.167."""

    def draw(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
        learned = 4.3e-4 * rng.lognormal(0, 0.2, size)
        return np.where(rng.random(size) < share, learned, 0.167 * rng.lognormal(0, 0.02, size))

    return draw


def epochs(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    return 500 * rng.lognormal(0, SPREAD, size)


def until(share: float) -> Change:
    """Stop at an epoch that this share of the seeds does not come to the end by: theirs is infinite."""
    limit = 500 * float(np.exp(SPREAD * ndtri(1 - share)))
    return lambda times: np.where(times > limit, np.inf, times)


def plus(step: float) -> Change:
    return lambda values: values + step


XOR_SHARES = (0.55, 0.65, 0.8, 0.9)
FAMILIES: dict[str, list[Family]] = {
    "normal": [Family(normal, plus(1))],
    "skewed": [Family(skewed, plus(float(np.sqrt((np.e - 1) * np.e))))],
    "bimodal": [Family(xor(p), plus(0.167 * float(np.sqrt(p * (1 - p))))) for p in XOR_SHARES],
    "heavy-tailed": [Family(heavy, plus(float(np.sqrt(3))))],
    "censored": [Family(epochs, lambda times: times * np.exp(SPREAD), until(p)) for p in (0.1, 0.2)],
}


@dataclass(frozen=True)
class Row:
    """How often a promise holds in a family, for each number of seeds; NaN where nothing is promised."""

    promise: str
    family: str
    rates: tuple[float, ...]
    trials: int


def covering(name: str, members: list[Family], sweeps: int, rng: np.random.Generator) -> Iterator[Row]:
    """Yield how often the intervals of the median, the interquartile mean and a share cover the truth."""
    promises = ("median", "interquartile mean", "share")
    hits = {promise: np.full((len(members), len(SEEDS)), np.nan) for promise in promises}
    for i, member in enumerate(members):
        population = np.sort(member.seen(member.draw(rng, (1_000_000,))))
        quarter = len(population) // 4
        middle, threshold = float(np.quantile(population, 0.5)), population[int(0.7 * len(population))]
        mean = float(population[quarter : 3 * quarter].mean())
        share = float((population < threshold).mean())
        for j, seeds in enumerate(SEEDS):
            values = member.seen(member.draw(rng, (max(1, sweeps // len(members)), seeds)))
            hits["median"][i, j] = _covered(statistics.median_interval(values), middle)
            if seeds >= statistics.FEWEST_FOR_IQM and np.isfinite(mean):
                hits["interquartile mean"][i, j] = _covered(statistics.iqm_interval(values), mean)
            solved = (values < threshold).sum(axis=1)
            hits["share"][i, j] = _covered(statistics.wilson(solved, np.full(len(solved), seeds)), share)
    for promise, rates in hits.items():
        known = ~np.isnan(rates).all(axis=0)
        means = [float(np.nanmean(rates[:, j])) if known[j] else np.nan for j in range(len(SEEDS))]
        yield Row(promise, name, tuple(means), sweeps)


def comparing(name: str, members: list[Family], sweeps: int, rng: np.random.Generator) -> Iterator[Row]:
    """Yield how often the intervals of a comparison cover: of the difference and of improvement.

    Two settings are compared seed by seed, and as independent samples. In half of the sweeps they are alike,
    in the others one is a standard deviation worse.
    """
    ways = {"by seeds": compare.by_seeds, "as samples": compare.by_samples}
    hits = {(what, way): np.zeros(len(SEEDS)) for way in ways for what in ("difference", "improvement")}
    cases = [(member, worse) for member in members for worse in (lambda x: x, member.worse)]
    each = max(1, sweeps // len(cases))
    for member, worse in cases:

        def pair(size: tuple[int, ...], member: Family = member, worse: Change = worse) -> list[Floats]:
            return [member.seen(member.draw(rng, size)), member.seen(worse(member.draw(rng, size)))]

        x, y = pair((1_000_000,))
        with np.errstate(invalid="ignore"):
            middle = float(np.median(np.nan_to_num(x - y, nan=0.0, posinf=np.inf, neginf=-np.inf)))
        better = float((x < y).mean() + (x == y).mean() / 2)
        for j, seeds in enumerate(SEEDS):
            for _ in range(each):
                one, other = pair((seeds,))
                for way, found in ((way, of(one, other)) for way, of in ways.items()):
                    hits["difference", way][j] += found.low <= middle <= found.high
                    hits["improvement", way][j] += found.better_low <= better <= found.better_high
    for (what, way), counts in hits.items():
        yield Row(f"{what}, {way}", name, tuple((counts / (each * len(cases))).tolist()), each * len(cases))


def _covered(interval: tuple[Floats, Floats], truth: float) -> float:
    low, high = interval
    return float(((low <= truth) & (truth <= high)).mean())


def alike(name: str, members: list[Family], sweeps: int, rng: np.random.Generator) -> Row:
    """Return how often some setting is called worse than the best though all twelve are alike."""
    rates = []
    for seeds in SEEDS:
        called = 0
        for i in range(sweeps):
            member = members[i % len(members)]
            values = member.seen(member.draw(rng, (SETTINGS, seeds)))
            called += bool(against_best(values, _best(values)).is_worse.any())
        rates.append(called / sweeps)
    return Row("called worse, 12 alike", name, tuple(rates), sweeps)


def found(name: str, members: list[Family], sweeps: int, rng: np.random.Generator) -> Row:
    """Return how often a setting that is one standard deviation worse is called worse."""
    told = 0
    for i in range(sweeps):
        member = members[i % len(members)]
        better, other = member.draw(rng, (2, PAIRED_SEEDS))
        values = member.seen(np.stack([better, member.worse(other)]))
        told += bool(against_best(values, _best(values)).is_worse[1])
    rates = tuple(told / sweeps if seeds == PAIRED_SEEDS else np.nan for seeds in SEEDS)
    return Row("found, one deviation worse", name, rates, sweeps)


def _best(values: Floats) -> int:
    return int(statistics.median(values).argmin())


def broken(rows: list[Row]) -> Iterator[str]:
    """Yield the promises that are broken by more than three standard errors of the simulation."""
    for row in rows:
        rates = np.array(row.rates)
        known = rates[~np.isnan(rates)]
        error = 3 * np.sqrt(0.06 / row.trials)
        what = f"{row.promise}, {row.family}: {', '.join(f'{rate:.1%}' for rate in known)}"
        if row.promise.startswith("called") and (known > 0.05 + error).any():
            yield f"{what}: more than 5% of sweeps"
        elif row.promise.startswith("found") and (known < 0.8 - 2 * error).any():
            yield f"{what}: less than 80% of sweeps"
        elif not row.promise.startswith(("called", "found")):
            if len(known) and not 0.93 - error <= known.mean() <= 0.98 + error:
                yield f"{what}: not 93% to 98% on the average"
            if (rates[1:] < 0.9 - error).any():
                yield f"{what}: less than 90% with 10 seeds or more"


def table(rows: list[Row]) -> str:
    """Return the rows as a table in Markdown."""
    head = "| | family | " + " | ".join(f"{seeds} seeds" for seeds in SEEDS) + " | mean |\n"
    lines = [head + "|---|---" + "|---:" * (len(SEEDS) + 1) + "|"]
    for row in rows:
        cells = [*row.rates, float(np.nanmean(row.rates)) if np.isfinite(row.rates).any() else np.nan]
        texts = ["" if np.isnan(rate) else f"{rate:.1%}" for rate in cells]
        lines.append(f"| {row.promise} | {row.family} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Simulate, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    rng, rows = np.random.default_rng(asked.seed), []
    for name, members in FAMILIES.items():
        rows += covering(name, members, asked.sweeps, rng)
        rows += comparing(name, members, max(1, asked.sweeps // 4), rng)
    for told in (alike, found):
        rows += [told(name, members, max(1, asked.sweeps // 4), rng) for name, members in FAMILIES.items()]
    order = list(dict.fromkeys(row.promise for row in rows))
    rows.sort(key=lambda row: order.index(row.promise))
    print(table(rows))
    if asked.write:
        before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        fewer = f"a quarter as many of comparisons and of {SETTINGS} settings"
        said = f"\n{asked.sweeps:,} sweeps of each family, {fewer}, seed {asked.seed}:\n\n"
        PAGE.write_text(
            before + BEGIN + said + table(rows) + "\n" + END + rest.split(END)[1], encoding="utf-8"
        )
    wrong = list(broken(rows))
    print("\n".join(wrong) or "every promise is kept")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
