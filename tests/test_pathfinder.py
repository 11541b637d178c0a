"""Pathfinder: the inverse Hessian of a path, normal targets, and starts inside the mass of published posteriors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from published_models import Schools, TwoNormals, numbers, published
from test_laplace import Counts, Local, Network, Regression, Switch, Twice, line, two
from torch import Tensor

import latentvars as lv
from latentvars.capture import Potential, Way
from latentvars.errors import NumericalError, SettingError, SupportError
from latentvars.inference.density import Normals
from latentvars.inference.density.climbing import Path as Climb
from latentvars.inference.density.inverse_hessian import spreads
from latentvars.inference.density.pathfinder import smoothed
from latentvars.inference.running.binding import bind
from latentvars.inference.sampling import Draws
from latentvars.inference.starting.values import starting_points

COUNTS = {"y": np.array([2.0, 4, 1, 3, 3, 0, 5])}


def normals(fit: lv.Fit) -> Normals:
    assert isinstance(fit.globals, Normals)
    return fit.globals


def by_updates(diagonal: Tensor, steps: Tensor, turns: Tensor) -> Tensor:
    """The inverse Hessian by BFGS's formula (Nocedal & Wright 2006, eq. 6.17), pair after pair."""
    inverse, one = diagonal.diag(), torch.eye(len(diagonal), dtype=diagonal.dtype)
    for step, turn in zip(steps, turns, strict=True):
        rho = 1 / (turn @ step)
        left = one - rho * torch.outer(step, turn)
        inverse = left @ inverse @ left.mT + rho * torch.outer(step, step)
    return inverse


@pytest.mark.parametrize("size", [2, 5, 40])
def test_the_estimate_is_that_of_bfgs(size: int) -> None:
    """From the same diagonal and the same last pairs; fewer numbers than pairs, and more."""
    source = torch.Generator().manual_seed(1)
    root = torch.randn(size, size, dtype=torch.float64, generator=source)
    hessian = root @ root.mT + torch.eye(size, dtype=torch.float64)
    points = torch.randn(9, size, dtype=torch.float64, generator=source)
    gradients = points @ hessian
    path = Climb(points, 0.5 * (gradients * points).sum(1), gradients)
    for number, spread in enumerate(spreads(path, memory=4), start=1):
        assert spread is not None
        first = max(0, number - 4)
        expected = by_updates(spread.diagonal, points.diff(dim=0)[first:number], gradients.diff(dim=0)[first:number])
        torch.testing.assert_close(spread.dense @ spread.dense.mT, expected, rtol=1e-6, atol=1e-8)
        vector = torch.randn(size, dtype=torch.float64, generator=source)
        torch.testing.assert_close(spread.covariance_times(vector), expected @ vector, rtol=1e-6, atol=1e-8)
        half = 0.5 * torch.linalg.slogdet(expected).logabsdet
        assert float(spread.log_det) == pytest.approx(float(half), rel=1e-6, abs=1e-8)
        noise = torch.randn(3, size, dtype=torch.float64, generator=source)
        torch.testing.assert_close(spread.times(noise), noise @ spread.dense.mT)


def test_pairs_that_are_not_convex_are_left_out() -> None:
    points = torch.tensor([[0.0], [1.0], [2.0], [2.5]], dtype=torch.float64)
    gradients = torch.tensor([[0.0], [-1.0], [1.0], [2.0]], dtype=torch.float64)
    found = list(spreads(Climb(points, points[:, 0], gradients), memory=6))
    assert found[0] is None
    assert found[1] is not None and found[2] is not None
    assert float(found[1].dense.square()) == pytest.approx(0.5)  # step 1, turn 2
    assert float(found[2].dense.square()) == pytest.approx(0.5)


def test_a_normal_posterior() -> None:
    """Mean, covariance and evidence in closed form."""
    data = line()
    fit = lv.fit(Regression(), data, lv.Pathfinder(draws=300))
    precision = data["x"].T @ data["x"] / 0.25 + np.eye(3) / 4
    mean, covariance = np.linalg.solve(precision, data["x"].T @ data["y"] / 0.25), np.linalg.inv(precision)
    deviation = covariance.diagonal() ** 0.5
    table = fit.summary(draws=4_000)
    assert bool((abs(table["mean"] - mean) < 0.25 * deviation).all())
    np.testing.assert_allclose(table["sd"], deviation, rtol=0.25)
    log_det = np.linalg.slogdet(2 * np.pi * covariance)[1]
    residual = data["y"] - data["x"] @ mean
    at_top = -0.5 * (residual @ residual / 0.25 + 25 * np.log(2 * np.pi * 0.25))
    at_top += -0.5 * (mean @ mean / 4 + 3 * np.log(2 * np.pi * 4))
    assert normals(fit).log_evidence == pytest.approx(at_top + 0.5 * log_det, abs=0.05)
    assert "4 of 4 paths" in str(fit)
    stats = fit.to_datatree(draws=10, predictive=False)["sample_stats"]
    assert set(stats.data_vars) == {"lp", "log_q"}


def heights(potential: Potential, free: Tensor) -> np.ndarray:
    return np.array([-float(potential(one)[0]) for one in free])


@pytest.mark.parametrize("name", [pytest.param("mixture", marks=pytest.mark.long), "schools"])
def test_chains_begin_in_the_mass_of_the_posterior(truth: Path, name: str) -> None:
    """Heights of starts lie among those of draws by NUTS, and not at the top or far below."""
    pytest.importorskip("nutpie")
    if name == "mixture":
        model: Any = TwoNormals()
        columns = {"y": np.array(published(truth, "low_dim_gauss_mix-low_dim_gauss_mix")["y"])}
    else:
        model, data = Schools(), published(truth, "eight_schools-eight_schools_noncentered")
        columns = {"y": np.array(data["y"], float), "sigma": np.array(data["sigma"], float)}
    rows, program = bind(model, columns)
    starts = starting_points(program, rows, 3, 16, lv.Pathfinder(paths=3, draws=100))
    free = torch.stack([program.space.unconstrain(start) for start in starts])
    assert len({tuple(one.tolist()) for one in free}) == 16
    sampled = lv.fit(model, columns, lv.NUTS(draws=100, tune=120, chains=2), start=starts[0], progress=False)
    assert isinstance(sampled.globals, Draws)
    potential = Potential.of(program, rows.batch(dtype=program.dtype), fastest=Way.GRAPH)
    drawn = heights(potential, sampled.globals.free.flatten(0, 1))
    begun = heights(potential, free)
    assert drawn.min() <= begun.min()
    assert begun.max() <= drawn.max() + 0.5
    assert abs(begun.mean() - drawn.mean()) < 1.5 * drawn.std()


def test_every_algorithm_begins_there() -> None:
    start = lv.Pathfinder(paths=2, draws=60)
    em = lv.fit(TwoNormals(), two(), lv.EM(passes=12), start=start)
    np.testing.assert_allclose(em.point["mu"], [-2, 2], atol=0.4)
    svi = lv.fit(TwoNormals(), two(), lv.SVI(passes=60), start=start, progress=False)
    np.testing.assert_allclose(svi.point["mu"], [-2, 2], atol=0.4)
    laplace = lv.fit(TwoNormals(), two(), lv.Laplace(), start=start)
    np.testing.assert_allclose(laplace.point["mu"], em.point["mu"], atol=0.1)


def test_it_repeats_and_another_seed_is_another_run(tmp_path: Path) -> None:
    algorithm = lv.Pathfinder(paths=2, draws=60)
    one, again, other = (lv.fit(Counts(), COUNTS, algorithm, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(normals(one).factors, normals(again).factors)
    assert not torch.equal(normals(one).factors, normals(other).factors)
    back = lv.load(one.save(tmp_path / "fit", datatree=False), model=Counts())
    assert torch.equal(back.globals.draws(5, 0)[0]["rate"], one.globals.draws(5, 0)[0]["rate"])
    assert back.algorithm == algorithm
    rows, program = bind(Counts(), COUNTS)
    found = [starting_points(program, rows, seed, 3, algorithm) for seed in (0, 0, 1)]
    assert torch.equal(found[0][2]["rate"], found[1][2]["rate"])
    assert not torch.equal(found[0][2]["rate"], found[2][2]["rate"])


def test_weights_are_smoothed_and_keep_their_scale() -> None:
    """A tail with the shape .5 is found; of weights without one the mean stays."""
    noise = np.random.default_rng(0)
    light = torch.from_numpy(noise.normal(0, 0.3, 4_000))
    found, shape = smoothed(light + 7)
    assert float(found.logsumexp(0)) == pytest.approx(float((light + 7).logsumexp(0)), abs=0.01)
    assert shape < 0.5
    heavy = torch.from_numpy(0.8 * noise.exponential(size=20_000))  # exp of it is Pareto with the shape .8
    assert smoothed(heavy)[1] == pytest.approx(0.8, abs=0.12)
    gone = smoothed(torch.cat([light, torch.tensor([-torch.inf], dtype=torch.float64)]))[0]
    assert float(gone[-1]) == -torch.inf
    assert bool(gone[:-1].isfinite().all())


class Rising:
    """A density without a maximum: nothing holds the global back."""

    def model(self, rows: lv.Batch) -> None:
        a = pyro.sample("a", lv.flat(()))
        with rows.plate():
            pyro.sample("y", dist.Exponential(a.exp()), obs=0 * rows["y"])


@pytest.mark.filterwarnings("ignore")
def test_what_has_no_mass_is_an_error() -> None:
    with pytest.raises(NumericalError, match="density"):
        lv.fit(Rising(), two(), lv.Pathfinder(paths=2))
    assert numbers(1.0).dtype == torch.float64
    fit = lv.fit(Twice(), two(), lv.Pathfinder(paths=2, draws=50))  # flat along a line: found wherever a path ends
    assert normals(fit).locs.shape == (2, 2)


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (Local(), r"Pathfinder on a model with the continuous locals \['b'\]"),
        (Network(), "Pathfinder on a model with network weights"),
        (Switch(), r"Pathfinder on a model with the discrete globals \['on'\]"),
    ],
)
def test_what_has_no_density_of_globals_is_refused(model: Any, problem: str) -> None:
    with pytest.raises(SupportError, match=problem):
        lv.fit(model, two(), lv.Pathfinder())
    with pytest.raises(SupportError, match=problem):
        lv.fit(model, two(), lv.SVI(passes=2), start=lv.Pathfinder(), progress=False)


@pytest.mark.parametrize(
    "settings", [{"paths": 0}, {"draws": 0}, {"elbo_draws": 0}, {"memory": 0}, {"steps": 0}, {"spread": 0.0}]
)
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(settings))):
        lv.Pathfinder(**settings)
