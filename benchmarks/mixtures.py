"""EM of Gaussian mixtures beside scikit-learn: one iteration, its memory, and many starts; and of factor analysis."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from harness import Call, Case, Line, Outcome, Settings, Task, compared

FORMS = ("full", "tied", "diag", "spherical")
LARGE = dict(zip(FORMS, ((18, 75), (30, 60), (9, 25), (9, 25)), strict=True))
SMALL = dict(zip(FORMS, (5, 6, 3.5, 3.5), strict=True))
SHARE = 0.4
RESTARTS, RESTART_PASSES = 20, 100


@dataclass(frozen=True)
class Data:
    """Rows ``[N, D]`` and a start: weights, locs and, by form, covariances or scales."""

    x: np.ndarray
    form: str
    start: dict[str, np.ndarray]


def lines(settings: Settings) -> Iterator[Line]:
    return compared("mixtures", cases(settings.quick), settings)


def cases(quick: bool) -> list[Case]:
    rows = 50_000 if quick else 1_000_000
    found = [
        _case(
            form,
            rows,
            10,
            20,
            *goals,
            (1, 6),
            None if quick else SHARE,
            1 if quick else 3,
            2_000,
        )
        for form, goals in LARGE.items()
    ]
    found += [
        _case(form, 10_000, 2, 5, floor, None, (10, 60), None, 1 if quick else 5, 500) for form, floor in SMALL.items()
    ]
    sizes = (1_000, 2, 5)
    several = Task(
        f"{RESTARTS} starts × {RESTART_PASSES} iterations",
        f"scikit-learn, n_init={RESTARTS}",
        our_starts,
        their_starts,
        floor=20,
        tolerance=1e-6,
    )
    data, tiny = (functools.partial(simulate, "full", n, *sizes[1:]) for n in (sizes[0], 200))
    found.append(Case(_name("full", *sizes), data, tiny, (several,), 1 if quick else 5))
    return [*found, _factors(20_000 if quick else 100_000, 50, 10, 1)]


def _factors(rows: int, features: int, latents: int, rounds: int) -> Case:
    """Whole calls: what does not grow with the iterations is all that there is in the rows."""
    tasks = tuple(
        Task(
            f"{iterations} iterations",
            "scikit-learn",
            functools.partial(our_factors, passes=iterations),
            functools.partial(their_factors, passes=iterations),
            floor,
            reach,
        )
        for iterations, floor, reach in ((20, 40, 67), (200, 100, 180))
    )
    data, tiny = (functools.partial(simulate_factors, n, features, latents) for n in (rows, 500))
    return Case(f"factor analysis, N={rows:,}, D={features}, k={latents}", data, tiny, tasks, rounds)


def _case(
    form: str,
    rows: int,
    features: int,
    components: int,
    floor: float,
    reach: float | None,
    passes: tuple[int, int],
    share: float | None,
    rounds: int,
    few: int,
) -> Case:
    ours = (1, 21) if share else None  # iterations of ours are small beside what a call does once
    task = Task("EM iteration", "scikit-learn", our_em, their_em, floor, reach, passes, share=share, our_passes=ours)
    data, tiny = (functools.partial(simulate, form, n, features, components) for n in (rows, few))
    return Case(_name(form, rows, features, components), data, tiny, (task,), rounds)


def _name(form: str, rows: int, features: int, components: int) -> str:
    return f"N={rows:,}, D={features}, K={components}, {form}"


def simulate(form: str, rows: int, features: int, components: int) -> Data:
    """Clusters of unit variance whose centres are 3.5 (D = 2) or about 5 apart; the start is near the truth."""
    noise = np.random.default_rng(4)
    centres = 5 / np.sqrt(2 * features) * noise.normal(size=(components, features))
    if features == 2:
        angle = 2 * np.pi * np.arange(components) / components
        centres = 3 * np.column_stack([np.cos(angle), np.sin(angle)])
    x = noise.normal(size=(rows, features))
    x += centres[noise.integers(components, size=rows)]
    eye = np.eye(features)
    spread = {
        "full": {"covariance": np.tile(1.3 * eye, (components, 1, 1))},
        "tied": {"covariance": 1.3 * eye},
        "diag": {"scale": noise.uniform(1.0, 1.3, (components, features))},
        "spherical": {"scale": noise.uniform(1.0, 1.3, components)},
    }[form]
    loc = centres + 0.2 * noise.normal(size=centres.shape)
    return Data(x, form, {"weights": noise.dirichlet(np.full(components, 20.0)), "loc": loc} | spread)


@dataclass(frozen=True)
class Factors:
    """Rows ``[N, D]`` and the number of factors."""

    x: np.ndarray
    latents: int


def simulate_factors(rows: int, features: int, latents: int) -> Factors:
    """Factors some of which hardly show, so that 200 iterations are not enough."""
    noise = np.random.default_rng(6)
    loadings = noise.normal(size=(latents, features)) * np.geomspace(1.0, 0.03, latents)[:, None]
    x = noise.normal(size=(rows, latents)) @ loadings
    x += noise.normal(size=(rows, features)) * noise.uniform(0.5, 2.0, features)
    return Factors(x + noise.normal(size=features), latents)


def our_factors(data: Factors, passes: int) -> Call:
    import latentvars as lv

    size = data.x.shape[1]
    model, em = lv.models.FactorAnalysis(data.latents), lv.EM(passes=passes, stop=lv.Never(), variance_floor=0.0)

    def run(_: int) -> Outcome:
        start = {"loc": data.x.mean(0), "loadings": np.zeros((size, data.latents)), "scale": np.ones(size)}
        fit = lv.fit(model, data.x, em, start=start, progress=False)
        return {"score": np.array([fit.log_likelihood / len(data.x)]), "iterations": np.array([len(fit.history)])}

    return run


def their_factors(data: Factors, passes: int) -> Call:
    from sklearn.decomposition import FactorAnalysis

    def run(_: int) -> Outcome:
        found = FactorAnalysis(data.latents, max_iter=passes, tol=0.0, svd_method="lapack").fit(data.x)
        return {"score": np.array([found.score(data.x)]), "iterations": np.array([found.n_iter_])}

    return run


def our_em(data: Data) -> Call:
    import latentvars as lv

    model = lv.models.GaussianMixture(len(data.start["loc"]), data.x.shape[1], data.form)

    def run(iterations: int) -> Outcome:
        algorithm = lv.EM(passes=iterations, stop=lv.Never())
        fit = lv.fit(model, data.x, algorithm, start=data.start, progress=False)
        return {"objective": fit.history[-1:]} | {name: v.numpy() for name, v in fit.point.items()}

    return run


def their_model(data: Data, iterations: int) -> Any:
    from sklearn.mixture import GaussianMixture

    start = data.start
    precisions = start["scale"] ** -2.0 if "scale" in start else np.linalg.inv(start["covariance"])
    return GaussianMixture(
        len(start["loc"]),
        covariance_type=data.form,
        max_iter=iterations,
        tol=0,
        reg_covar=0,
        weights_init=start["weights"],
        means_init=start["loc"],
        precisions_init=precisions,
    )


def their_em(data: Data) -> Call:
    def run(iterations: int) -> Outcome:
        model = their_model(data, iterations).fit(data.x)
        found = {"objective": np.array([model.lower_bound_]), "weights": model.weights_, "loc": model.means_}
        if data.form in ("full", "tied"):
            return found | {"covariance": model.covariances_}
        return found | {"scale": np.sqrt(model.covariances_)}

    return run


def our_starts(data: Data) -> Call:
    import latentvars as lv

    model = lv.models.GaussianMixture(len(data.start["loc"]), data.x.shape[1], data.form)
    algorithm = lv.EM(passes=RESTART_PASSES, stop=lv.Never(), restarts=RESTARTS)

    def run(_: int) -> Outcome:
        fit = lv.fit(model, data.x, algorithm, progress=False)
        return {"best": fit.score_rows().mean(0, keepdim=True).numpy()}

    return run


def their_starts(data: Data) -> Call:
    """Starts by k-means++ as well; which ones is a matter of chance on both sides.

    scikit-learn's starts of this kind have components of a single row, which its default ``reg_covar`` lets pass.
    """
    from sklearn.mixture import GaussianMixture

    def run(_: int) -> Outcome:
        model = GaussianMixture(
            len(data.start["loc"]),
            covariance_type=data.form,
            max_iter=RESTART_PASSES,
            tol=0,
            n_init=RESTARTS,
            init_params="k-means++",
            random_state=0,
        ).fit(data.x)
        return {"best": np.array([model.score(data.x)])}

    return run
