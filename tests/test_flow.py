"""The flow for globals: a density that is one, posteriors that no normal fits, restarts and storage."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from published_models import TwoNormals, numbers
from torch import Tensor, nn

import latentvars as lv
from latentvars.errors import SettingError
from latentvars.inference.guides.flow import FlowGuide
from latentvars.program import GlobalSpace

FLOAT = torch.float64


def banana(free: Tensor) -> Tensor:
    """a ~ Normal(0, 1), b ~ Normal(0, 2), two values of y ~ Normal(b − a², 0.4)."""
    a, b = free.unbind(-1)
    found = normal(a, 1.0) + normal(b, 2.0)
    return found + normal(-1.0 - b + a**2, 0.4) + normal(-0.5 - b + a**2, 0.4)


def funnel(free: Tensor) -> Tensor:
    """Neal's: the logarithm of the scale of the other coordinate, which the data say little of."""
    v, x = free.unbind(-1)
    return normal(v, 1.5) + normal(x * (-v / 2).exp(), 1.0) - v / 2 + normal(1.0 - x, 5.0)


def normal(gap: Tensor, scale: float) -> Tensor:
    return -0.5 * (gap / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)


class OneRate:
    """One count: the logarithm of its rate is skewed."""

    def model(self, rows: lv.Batch) -> None:
        rate = pyro.sample("rate", dist.Gamma(numbers(0.7)[0], 0.5))
        with rows.plate():
            pyro.sample("y", dist.Poisson(rate), obs=rows["y"])


def space_of(**supports: tuple[tuple[int, ...], object]) -> GlobalSpace:
    values = {name: torch.full(shape, 0.5, dtype=FLOAT) for name, (shape, _) in supports.items()}
    return GlobalSpace.of(values, {name: support for name, (_, support) in supports.items()})  # type: ignore[misc]


def stirred(guide: nn.Module, amount: float = 0.4) -> nn.Module:
    """A guide with weights anywhere."""
    source = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in guide.parameters():
            weight += amount * torch.randn(weight.shape, dtype=weight.dtype, generator=source)
    return guide


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_density_integrates_to_one(layers: int) -> None:
    """Over the plane, by a fine grid: the claimed density at each point times the area that it was given, which is
    that of little parallelograms, worked out by differences."""
    space = space_of(a=((2,), torch.distributions.constraints.real_vector))
    guide = stirred(lv.Flow(layers=layers, scale=0.7).build(space, {"a": numbers(0.3, 1.2)}, FLOAT))
    assert isinstance(guide, FlowGuide)
    axis = torch.linspace(-6, 6, 401, dtype=FLOAT)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        _, log_q = guide.free(grid)
        step = 1e-5 * torch.eye(2, dtype=FLOAT)
        slopes = [(guide.free(grid + h)[0] - guide.free(grid - h)[0]) / 2e-5 for h in step]
        area = torch.linalg.det(torch.stack(slopes, -1)).abs()
        mass = log_q.exp() * area * float(axis[1] - axis[0]) ** 2
    assert float(mass.sum()) == pytest.approx(1.0, abs=1e-4)


def test_a_draw_has_the_density_of_its_constrained_value() -> None:
    """log q of log a is that of a, times a."""
    space = space_of(a=((), torch.distributions.constraints.positive))
    guide = stirred(lv.Flow().build(space, {"a": numbers(1.2)[0]}, FLOAT))
    assert isinstance(guide, FlowGuide)
    noise = numbers(0.4)
    drawn, (free, log_q) = guide(noise), guide.free(noise)
    torch.testing.assert_close(drawn.values["a"], free[0].exp())
    torch.testing.assert_close(drawn.log_q, log_q - free[0])


def test_it_begins_as_full_rank() -> None:
    space = space_of(a=((3,), torch.distributions.constraints.real_vector))
    start = {"a": numbers(1, 2, 3)}
    noise = numbers(0.3, -0.2, 1.0)
    flow = lv.Flow(layers=2, scale=0.2).build(space, start, FLOAT)
    full = lv.FullRank(scale=0.2).build(space, start, FLOAT)
    torch.testing.assert_close(flow(noise).values["a"], full(noise).values["a"])
    torch.testing.assert_close(flow(noise).log_q, full(noise).log_q)
    torch.testing.assert_close(flow.point()["a"], start["a"])


def test_coordinates_depend_on_those_before_them_alone() -> None:
    space = space_of(a=((4,), torch.distributions.constraints.real_vector))
    guide = stirred(lv.Flow(layers=1).build(space, {"a": numbers(0, 0, 0, 0)}, FLOAT))
    assert isinstance(guide, FlowGuide)
    slope = torch.autograd.functional.jacobian(lambda e: guide.layers[0](e)[0], numbers(0.1, 0.5, -0.3, 0.9))
    assert isinstance(slope, Tensor)
    assert bool((slope.triu(1) == 0).all())
    assert bool((slope.tril(-1) != 0).any(0)[:3].all())  # every one has a say in those after it


def fitted(guide: nn.Module, target: Callable[[Tensor], Tensor], full: bool) -> tuple[Tensor, Tensor]:
    """Draws of a guide after 1,200 steps towards a density, and log p − log q of them."""

    def drawn(noise: Tensor) -> tuple[Tensor, Tensor]:
        if not full:
            return guide.free(noise)  # type: ignore[operator]
        factor = torch.diag_embed(guide.log_scale.exp()) + guide.below.tril(-1)  # type: ignore[operator,union-attr]
        return guide.loc + noise @ factor.mT, normal(noise, 1.0).sum(-1) - guide.log_scale.sum()  # type: ignore[operator]

    source, steps = torch.Generator().manual_seed(0), 1_200
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.02)
    falling = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.02 ** (1 / steps))
    for _ in range(steps):
        free, log_q = drawn(torch.randn(64, 2, dtype=FLOAT, generator=source))
        optimizer.zero_grad()
        (log_q - target(free)).mean().backward()
        optimizer.step()
        falling.step()
    with torch.no_grad():
        free, log_q = drawn(torch.randn(20_000, 2, dtype=FLOAT, generator=source))
        return free, target(free) - log_q


@pytest.mark.parametrize(
    ("target", "box", "near"),
    [
        pytest.param(banana, (5.0, 14.0), 0.06, id="banana"),
        pytest.param(funnel, (9.0, 90.0), 0.08, id="funnel", marks=pytest.mark.long),
    ],
)
def test_what_no_normal_fits(target: Callable[[Tensor], Tensor], box: tuple[float, float], near: float) -> None:
    """Evidence and moments by quadrature: the flow comes near, the best normal does not."""
    space = space_of(a=((2,), torch.distributions.constraints.real_vector))
    start = {"a": numbers(0, 0)}
    axes = [torch.linspace(-width, width, 1_001, dtype=FLOAT) for width in box]
    grid = torch.cartesian_prod(*axes)
    log_p = target(grid) + np.log(float(axes[0][1] - axes[0][0]) * float(axes[1][1] - axes[1][0]))
    exact, share = float(log_p.logsumexp(0)), log_p.softmax(0)
    free, ratios = fitted(lv.Flow().build(space, start, FLOAT), target, full=False)
    _, normal_ratios = fitted(lv.FullRank().build(space, start, FLOAT), target, full=True)
    gap, normal_gap = exact - float(ratios.mean()), exact - float(normal_ratios.mean())
    assert -0.01 < gap < near
    assert normal_gap > 0.15 + gap
    assert float(ratios.logsumexp(0)) - np.log(20_000) == pytest.approx(exact, abs=0.05)
    mean = (share[:, None] * grid).sum(0)
    deviation = (share[:, None] * (grid - mean).square()).sum(0).sqrt()
    assert bool(((free.mean(0) - mean).abs() < 0.12 * deviation).all())
    torch.testing.assert_close(free[:, 0].std(), deviation[0], rtol=0.12, atol=0)


def elbo(fit: lv.Fit, draws: int = 1_000) -> float:
    """E_q[log p − log q], nats; of a log ratio whose deviation is 0.3 the error is 0.01."""
    stats = fit.to_datatree(draws=draws, predictive=False, latents=False)["sample_stats"]
    return float((stats["lp"] - stats["log_q"]).mean())


SETTINGS: Any = {
    "passes": 700,
    "particles": 2,
    "stop": lv.Never(),
    "optimizer": partial(torch.optim.Adam, lr=0.03),
    "schedule": partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.993),
}


def test_one_skewed_global() -> None:
    """log rate of a Gamma(0.7 + 0, 1.5) posterior; evidence in closed form."""
    exact = float(dist.GammaPoisson(numbers(0.7)[0], numbers(0.5)[0]).log_prob(numbers(0)[0]))
    near = {"rate": 0.5}
    flow = lv.fit(OneRate(), {"y": np.array([0.0])}, lv.SVI(guide=lv.Flow(), **SETTINGS), start=near)
    full = lv.fit(OneRate(), {"y": np.array([0.0])}, lv.SVI(guide=lv.FullRank(), **SETTINGS), start=near)
    assert exact - elbo(full) > 0.08
    assert exact - elbo(flow) < 0.065
    assert float(flow.globals.draws(4_000, 0)[0]["rate"].mean()) == pytest.approx(0.7 / 1.5, rel=0.15)


def mixed() -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0)
    return {"y": np.concatenate([noise.normal(-2, 1, 60), noise.normal(2, 1, 40)])}


def test_starts_run_together_and_a_fit_comes_back(tmp_path: Path) -> None:
    algorithm = lv.SVI(passes=20, guide=lv.Flow(layers=1, hidden=8), restarts=3)
    fit = lv.fit(TwoNormals(), mixed(), algorithm, progress=False)
    assert fit.optima is not None
    assert not fit.optima.alone  # no reason to run them one by one
    back = lv.load(fit.save(tmp_path / "fit", datatree=False), model=TwoNormals())
    assert torch.equal(back.globals.draws(5, 0)[0]["sigma"], fit.globals.draws(5, 0)[0]["sigma"])
    assert isinstance(back.algorithm, lv.SVI)
    assert back.algorithm.guide == lv.Flow(layers=1, hidden=8)


def test_a_run_repeats() -> None:
    brief = lv.SVI(passes=4, guide=lv.Flow(layers=1, hidden=4))
    one, again, other = (lv.fit(OneRate(), {"y": np.ones(3)}, brief, seed=seed, progress=False) for seed in (0, 0, 1))
    assert np.array_equal(one.history, again.history) and not np.array_equal(one.history, other.history)


@pytest.mark.parametrize("settings", [{"layers": 0}, {"hidden": 0}, {"scale": 0.0}, {"seed": -1}])
def test_settings_out_of_range(settings: dict[str, float]) -> None:
    with pytest.raises(SettingError, match=next(iter(settings))):
        lv.Flow(**settings)  # type: ignore[arg-type]
