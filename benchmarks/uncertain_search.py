"""Do neighbours come as often as is said? Uncertain search beside plain one where most entries of queries are missing.

    python benchmarks/uncertain_search.py [--quick]

A query is a row of which 70 % of the entries are hidden at random. The truth is which rows are among its k nearest: by
the true latents of simulated data, or by the vectors of the whole rows of real data, where no latent is known. Three
answers are compared, each a probability for each pair of query and row:

- uncertain: ``BeliefIndex.probability_among_nearest``;
- plain: the k nearest posterior means, said with certainty (0.001 and 0.999 where logarithms are taken);
- softened: k times a softmax of minus squared distances of posterior means, its temperature chosen on other queries
  by the log score.

Brier score, log score (nats, negative log-likelihood) and expected calibration error (of ten bins with as many pairs
each, among those to which any answer gives more than 0.01): smaller is better.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.datasets import load_digits, load_wine
from sklearn.preprocessing import StandardScaler

import latentvars as lv

HIDDEN, LEAST, SEEN, BINS = 0.7, 1e-3, 0.01, 10


@dataclass(frozen=True)
class Trial:
    """Beliefs about rows and about queries, and who is truly near.

    Attributes:
        rows: N.
        queries: Q, with gaps.
        truth: ``[Q, N]`` whether a row is among the k nearest.
        k: how many are.
    """

    rows: lv.BeliefIndex
    queries: lv.BeliefIndex
    truth: np.ndarray
    k: int


def hide(x: np.ndarray, noise: np.random.Generator) -> np.ndarray:
    """The table with a share of its entries missing."""
    return np.where(noise.random(x.shape) < HIDDEN, np.nan, x)


def simulated(rows: int, queries: int, k: int, seed: int, features: int = 20, latents: int = 3) -> Trial:
    """Factor analysis whose globals are known: beliefs are exact, the truth is that of the latents drawn."""
    noise = np.random.default_rng((seed, 0))
    loadings, scale = noise.normal(size=(features, latents)), noise.uniform(0.5, 1.5, features)
    z = noise.normal(size=(rows + queries, latents))
    x = z @ loadings.T + scale * noise.normal(size=(rows + queries, features))
    point = {"loc": np.zeros(features), "loadings": loadings, "scale": scale}
    fit = lv.from_point(
        lv.models.FactorAnalysis(latents), x[:rows], {name: torch.as_tensor(value) for name, value in point.items()}
    )
    asked = lv.BeliefIndex(fit.latent(hide(x[rows:], noise)))
    return Trial(lv.BeliefIndex(fit.latent()), asked, among(z[rows:], z[:rows], k), k)


def real(x: np.ndarray, queries: int, k: int, seed: int, latents: int) -> Trial:
    """Factor analysis fitted to whole rows; the truth is that of the vectors of the whole rows, known points."""
    noise = np.random.default_rng((seed, 1))
    order = noise.permutation(len(x))
    kept, asked = np.sort(order[queries:]), order[:queries]
    fit = lv.fit(lv.models.FactorAnalysis(latents), x[kept], lv.EM(passes=500), seed=seed, progress=False)
    rows, whole = (fit.latent(part).mean("z").numpy() for part in (x[kept], x[asked]))
    known = lv.BeliefIndex(point_beliefs(fit, x[kept]))
    return Trial(known, lv.BeliefIndex(about_vectors(fit, hide(x[asked], noise), x[asked])), among(whole, rows, k), k)


def point_beliefs(fit: lv.Fit, x: np.ndarray) -> lv.LatentPosterior:
    """The vectors of whole rows as beliefs without spread worth speaking of."""
    mean = fit.latent(x).mean("z")
    tiny = torch.eye(mean.shape[1], dtype=mean.dtype) * 1e-12
    law = type(fit.latent(x).belief("z"))(mean, covariance_matrix=tiny.expand(len(mean), -1, -1))
    return lv.LatentPosterior({"z": [law]}, tuple(range(len(mean))))


def about_vectors(fit: lv.Fit, gaps: np.ndarray, x: np.ndarray) -> lv.LatentPosterior:
    """What is known of the vector E[z | x] of the whole row from its observed part: less wide than the belief about z
    by Cov[z | x], which is the same for all rows."""
    belief, whole = fit.latent(gaps).belief("z"), fit.latent(x).belief("z")
    spread = belief.covariance_matrix - whole.covariance_matrix
    value, axes = torch.linalg.eigh(spread)
    spread = (axes * value.clamp(min=1e-12)[:, None]) @ axes.mT
    return lv.LatentPosterior({"z": [type(belief)(belief.mean, covariance_matrix=spread)]}, tuple(range(len(x))))


def among(queries: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    far = np.square(queries[:, None] - rows).sum(-1)
    found = np.zeros(far.shape)
    np.put_along_axis(found, np.argpartition(far, k - 1, axis=1)[:, :k], 1.0, 1)
    return found


def answers(trial: Trial, draws: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Probabilities of each answer for the second half of the queries ``[Q/2, N]``, and the truth."""
    half = len(trial.truth) // 2
    said = trial.rows.probability_among_nearest(trial.queries, trial.k, draws=draws, seed=seed)
    means = trial.queries.known.means, trial.rows.known.means
    far = np.square(means[0][:, None] - means[1]).sum(-1)
    plain = among(*means, trial.k)

    def softened(log_scale: float) -> np.ndarray:
        logits = -far * np.exp(log_scale)
        return np.minimum(1.0, trial.k * np.exp(logits - logsumexp(logits, 1, keepdims=True)))

    best = minimize_scalar(
        lambda s: log_score(softened(s)[:half], trial.truth[:half]), bounds=(-6, 6), method="bounded"
    )
    found = {"uncertain": said, "plain": plain, "softened": softened(best.x)}
    return {name: value[half:] for name, value in found.items()}, trial.truth[half:]


def brier(p: np.ndarray, truth: np.ndarray) -> float:
    """Mean squared error of the probabilities."""
    return float(np.square(p - truth).mean())


def log_score(p: np.ndarray, truth: np.ndarray) -> float:
    """Mean negative log probability of what is true, nats."""
    p = p.clip(LEAST, 1 - LEAST)
    return float(-(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean())


def calibration_error(p: np.ndarray, truth: np.ndarray, worth: np.ndarray) -> float:
    """Mean gap between what is said and what comes true, over bins with as many pairs each."""
    p, truth = p[worth], truth[worth]
    bins = np.array_split(np.argsort(p, kind="stable"), BINS)
    return float(sum(len(part) * abs(p[part].mean() - truth[part].mean()) for part in bins) / len(p))


def scores(trial: Trial, draws: int = 1_000, seed: int = 0) -> dict[str, dict[str, float]]:
    """Answer → score → value."""
    found, truth = answers(trial, draws, seed)
    worth = np.max(list(found.values()), axis=0) > SEEN
    return {
        name: {
            "Brier": brier(p, truth),
            "log score": log_score(p, truth),
            "calibration error": calibration_error(p, truth, worth),
            "right of k": float((truth * chosen(p, trial.k)).sum(1).mean() / trial.k),
        }
        for name, p in found.items()
    }


def chosen(p: np.ndarray, k: int) -> np.ndarray:
    found = np.zeros(p.shape)
    np.put_along_axis(found, np.argsort(-p, axis=1, kind="stable")[:, :k], 1.0, 1)
    return found


def confident(trial: Trial, k: int) -> str:
    """Of the queries that answer above a confidence, how many neighbours are right."""
    said = trial.rows.search(trial.queries, k)
    right = np.take_along_axis(trial.truth, said.positions, 1).mean(1)
    parts = np.array_split(np.argsort(-said.confidence), 4)
    return ", ".join(f"{said.confidence[part].mean():.3f} → {right[part].mean():.3f}" for part in parts)


def cases(quick: bool) -> dict[str, Callable[[int], Trial]]:
    size, asked = (200, 100) if quick else (1_000, 600)
    wine = StandardScaler().fit_transform(load_wine().data)
    digits = load_digits().data[:: 4 if quick else 1] + 0.0
    digits = digits[:, digits.std(0) > 0.5]
    return {
        f"simulated factors, k=1 of {size}": lambda seed: simulated(size, asked, 1, seed),
        f"simulated factors, k=10 of {size}": lambda seed: simulated(size, asked, 10, seed),
        "wine, k=10 of 108": lambda seed: real(wine, 70, 10, seed, 3),
        f"digits, k=10 of {len(digits) - asked}": lambda seed: real(digits, asked, 10, seed, 8),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    for title, make in cases(quick).items():
        trials = [make(seed) for seed in range(1 if quick else 5)]
        table: list[Any] = [scores(trial, 500 if quick else 1_000, seed) for seed, trial in enumerate(trials)]
        print(f"\n{title}; {HIDDEN:.0%} of the entries of queries hidden; {len(trials)} repetitions", flush=True)
        for answer in table[0]:
            means = {name: np.mean([one[answer][name] for one in table]) for name in table[0][answer]}
            print(f"  {answer:10}" + "".join(f"  {name} {value:.4f}" for name, value in means.items()))
        print(f"  confidence → right, by quarters of the queries: {confident(trials[0], trials[0].k)}")


if __name__ == "__main__":
    main()
