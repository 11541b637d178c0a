"""Pictures of what was learnt: what is drawn is what the fit says, read off the artists."""

from __future__ import annotations

import itertools
from dataclasses import replace

import arviz_stats
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.collections import EllipseCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Circle, PathPatch, StepPatch
from scipy import stats

import latentvars as lv
from latentvars.errors import KindError, NameUnknownError, SettingError, ShapeError
from latentvars.inference.fits.optima import Optima
from latentvars.inference.sampling import Draws
from latentvars.plots.canvas import PALETTE

IRIS = lv.datasets.iris()
QUAKES = lv.datasets.earthquakes()
MOVES = [[0.87, 0.13], [0.07, 0.93]]


class TwoHumps:
    """A user's mixture."""

    def model(self, rows: lv.Batch) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(torch.full((2,), 2.0, dtype=torch.float64)))
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2, dtype=torch.float64), 5.0).to_event(1))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=rows.x)


class LoopedChain:
    """A user's chain, written as a loop."""

    def model(self, rows: lv.Batch) -> None:
        moves = pyro.sample("moves", dist.Dirichlet(torch.full((2, 2), 2.0, dtype=torch.float64)).to_event(1))
        with rows.plate():
            probs = torch.full((2,), 0.5, dtype=torch.float64)
            for t in pyro.markov(range(rows.x.shape[1])):
                z = pyro.sample(f"z{t}", dist.Categorical(probs))
                pyro.sample(f"x{t}", dist.Normal(2.0 * z, 1.0), obs=rows.x[:, t])
                probs = moves[z]


def tensors(values: dict[str, object]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


@pytest.fixture(scope="module")
def mixture() -> lv.Fit:
    return lv.fit(lv.models.GaussianMixture(3), IRIS.frame, lv.EM(restarts=6), progress=False)


@pytest.fixture(scope="module")
def chain() -> lv.Fit:
    """The state of the higher rate comes first, so that an order by rates shows."""
    point = tensors({"initial": [0.4, 0.6], "transition": MOVES, "rate": [[26.1], [15.5]]})
    return lv.from_point(lv.models.HiddenMarkov(2, lv.emissions.Poisson()), QUAKES.x, point)


@pytest.fixture(scope="module")
def factors() -> lv.Fit:
    return lv.fit(lv.models.FactorAnalysis(2), IRIS.frame, lv.EM(passes=50), progress=False)


@pytest.fixture(scope="module")
def sampled(mixture: lv.Fit) -> lv.Fit:
    """Draws made up: chain 1 lies apart in one number, and one draw diverged."""
    model, x = TwoHumps(), np.array([-2.0, -1.5, 1.0, 2.0, 2.5])
    fit = lv.from_point(model, x, tensors({"weights": [0.4, 0.6], "loc": [-2.0, 2.0]}))
    free = torch.randn(3, 200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    free[..., 1] -= 4
    free[1, :, 2] += 5
    diverging = torch.zeros(3, 200, dtype=torch.bool)
    diverging[2, 17] = True
    stats_ = {"lp": torch.zeros(3, 200, dtype=torch.float64), "diverging": diverging}
    return replace(fit, globals=Draws(fit.program.space, free, stats_), algorithm=lv.NUTS())


def drawn(figure: Figure) -> Figure:
    figure.draw_without_rendering()
    return figure


def legend(owner: object) -> list[str]:
    found = owner.get_legend() if hasattr(owner, "get_legend") else owner.legends[0]  # type: ignore[attr-defined]
    return [text.get_text() for text in found.get_texts()]


def steps(axis: object) -> list[StepPatch]:
    return [patch for patch in axis.patches if isinstance(patch, StepPatch)]  # type: ignore[attr-defined]


def test_responsibilities_are_stacked_in_order_of_the_surest(mixture: lv.Fit) -> None:
    axis = drawn(lv.plots.responsibilities(mixture)).axes[0]
    belongs = mixture.latent().mean("z").numpy()
    heights = np.stack([step.get_data().values - step.get_data().baseline for step in steps(axis)], 1)
    assert sorted(map(tuple, heights.round(9))) == sorted(map(tuple, belongs.round(9)))
    np.testing.assert_allclose(steps(axis)[-1].get_data().values, 1)
    first = heights.argmax(1)
    assert (np.diff(first) >= 0).all()
    for k in range(3):
        assert (np.diff(heights[first == k].max(1)) <= 1e-12).all()
    assert legend(axis)[1] == f"component 1 ({belongs[:, 1].mean():.0%})"


def test_responsibilities_of_few_rows_name_them(mixture: lv.Fit) -> None:
    axis = drawn(lv.plots.responsibilities(mixture, IRIS.frame[60:63], sort=False, names=["a", "b", "c"])).axes[0]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["60", "61", "62"]
    np.testing.assert_allclose(steps(axis)[0].get_data().values, mixture.latent(IRIS.frame[60:63]).mean()[:, 0])
    assert legend(axis) == ["a", "b", "c"]


def test_transitions_have_their_widths_and_numbers(chain: lv.Fit) -> None:
    axis = drawn(lv.plots.transitions(chain)).axes[0]
    widths = [patch.get_linewidth() for patch in axis.patches if isinstance(patch, PathPatch)]
    low_first = np.array(MOVES)[::-1, ::-1]  # states stand by their rates
    between, within = [low_first[0, 1], low_first[1, 0]], [low_first[0, 0], low_first[1, 1]]
    np.testing.assert_allclose(widths, 0.8 + 4 * np.array(between + within))
    texts = [text.get_text() for text in axis.texts]
    share = chain.latent().mean()[0].mean(0)
    assert texts[:3] == ["0.070", "0.13", "0.93"]
    assert [text for text in texts if "state" in text] == [f"state 1\n{share[1]:.0%}", f"state 0\n{share[0]:.0%}"]
    nodes = [patch for patch in axis.patches if isinstance(patch, Circle)]
    assert [to_hex(node.get_facecolor()) for node in nodes] == [PALETTE[0].lower(), PALETTE[1].lower()]
    radii = np.array([node.get_radius() for node in nodes]) - 0.25
    assert (radii[0] / radii[1]) ** 2 == pytest.approx(float(share[1] / share[0]))


def test_small_transitions_are_left_out(chain: lv.Fit) -> None:
    axis = lv.plots.transitions(chain, least=0.1, names=["high", "low"]).axes[0]
    assert [text.get_text().split("\n")[0] for text in axis.texts] == ["0.13", "0.93", "low", "0.87", "high"]


def test_transitions_that_inputs_drive_are_expected_moves() -> None:
    """Of all paths of a short series, each weighed by its probability."""
    x, u, rate = np.array([3, 9, 4, 11, 2, 8]), np.array([0.0, 1.0, -1.0, 2.0, 0.5, 0.0]), np.array([3.0, 9.0])
    coefficients = np.array([[-1.0, 1.5], [0.4, -0.8]])  # from, (intercept, input): the logit of the second state
    rows = lv.Rows({"x": x, "u": np.stack([np.ones(6), u], 1)}, lengths=[6])
    point = tensors({"initial": [0.5, 0.5], "transition_coefficients": coefficients[..., None], "rate": rate[:, None]})
    fit = lv.from_point(lv.models.HiddenMarkov(2, lv.emissions.Poisson(), transition_by="u"), rows, point)
    moves = np.zeros((2, 2))
    for path in itertools.product(range(2), repeat=6):
        chance, counts = np.prod(stats.poisson.pmf(x, rate[list(path)])), np.zeros((2, 2))
        for t, (start, end) in enumerate(itertools.pairwise(path)):
            second = 1 / (1 + np.exp(-coefficients[start] @ [1, u[t]]))
            chance *= second if end else 1 - second
            counts[start, end] += 1
        moves += chance * counts
    moves /= moves.sum(1, keepdims=True)
    axis = lv.plots.transitions(fit, least=0).axes[0]
    shown = sorted(float(text.get_text()) for text in axis.texts if "state" not in text.get_text())
    np.testing.assert_allclose(shown, np.sort(moves, None), atol=0.0051)


def test_many_transitions_are_a_matrix() -> None:
    generator = np.random.default_rng(0)
    moves = generator.dirichlet(np.ones(9), 9)
    point = tensors({"initial": np.full(9, 1 / 9), "transition": moves, "rate": np.arange(1, 10.0)[:, None]})
    fit = lv.from_point(lv.models.HiddenMarkov(9, lv.emissions.Poisson()), QUAKES.x, point)
    axis = drawn(lv.plots.transitions(fit)).axes[0]
    np.testing.assert_allclose(axis.get_images()[0].get_array(), moves)


def test_transitions_of_a_chain_that_a_user_wrote() -> None:
    fit = lv.from_point(LoopedChain(), np.random.default_rng(0).normal(size=(4, 3)), tensors({"moves": MOVES}))
    axis = lv.plots.transitions(fit, site="moves").axes[0]
    texts = [text.get_text() for text in axis.texts]
    assert "state 0\n35%" in texts and "state 1\n65%" in texts  # δ = (.07, .13) / .2
    with pytest.raises(KindError, match="HiddenMarkov"):
        lv.plots.transitions(fit)
    with pytest.raises(NameUnknownError, match="steps"):
        lv.plots.transitions(fit, site="steps")


def test_loadings_and_communalities(factors: lv.Fit) -> None:
    axis = drawn(lv.plots.loadings(factors)).axes[0]
    loadings = factors.point["loadings"].numpy()
    image = axis.get_images()[0]
    np.testing.assert_allclose(image.get_array(), loadings)
    assert image.get_clim() == (-np.abs(loadings).max(), np.abs(loadings).max())
    assert [tick.get_text() for tick in axis.get_yticklabels()] == list(IRIS.features)
    texts = [text.get_text() for text in axis.texts]
    assert texts[:8] == [f"{value:.2f}".replace("-", "−") for value in loadings.flatten()]
    covariance = loadings @ loadings.T + np.diag(factors.point["scale"].numpy() ** 2)
    share = np.diag(loadings @ loadings.T) / np.diag(covariance)
    assert texts[8:] == [*(f"{value:.2f}" for value in share), "communality"]


def test_standardized_loadings_are_correlations(factors: lv.Fit) -> None:
    """Of features and factors, in draws from the model."""
    axis = lv.plots.loadings(factors, standardized=True, names=["size", "shape"]).axes[0]
    z = np.random.default_rng(0).normal(size=(200_000, 2))
    noise = np.random.default_rng(1).normal(size=(200_000, 4)) * factors.point["scale"].numpy()
    x = z @ factors.point["loadings"].numpy().T + noise
    expected = np.corrcoef(x.T, z.T)[:4, 4:]
    np.testing.assert_allclose(axis.get_images()[0].get_array(), expected, atol=0.01)


def test_the_objective_is_the_history(mixture: lv.Fit) -> None:
    axis = drawn(lv.plots.objective(mixture)).axes[0]
    np.testing.assert_array_equal(axis.get_lines()[0].get_ydata(), mixture.history)
    np.testing.assert_array_equal(axis.get_lines()[0].get_xdata(), np.arange(1, len(mixture.history) + 1))


def test_a_noisy_objective_has_its_median_and_a_steep_one_is_cut(mixture: lv.Fit) -> None:
    noise = np.random.default_rng(0).normal(size=200)
    axis = lv.plots.objective(replace(mixture, history=noise)).axes[0]
    median = np.asarray(axis.get_lines()[1].get_ydata())
    assert median[100] == np.median(noise[95:106]) and legend(axis) == ["median of 11 passes"]
    steep = np.concatenate([[-1e6, -1e5], np.linspace(-1.1, -1, 98)])
    axis = lv.plots.objective(replace(mixture, history=steep)).axes[0]
    assert axis.get_ylim()[0] > -1.5 and axis.texts[0].get_text() == "passes 1 to 2 below, from -1e+06"


def test_restarts_are_told_apart(mixture: lv.Fit) -> None:
    optima = Optima((-1.2, -1.5, float("nan"), -1.2000001, -0.3, -1.2), tolerance=1e-5, chosen=-1.2)
    axis = drawn(lv.plots.restarts(replace(mixture, optima=optima))).axes[0]
    kept, other, above = (np.asarray(cloud.get_offsets()) for cloud in axis.collections)
    np.testing.assert_allclose(kept, [[2, -1.2], [3, -1.2], [4, -1.2000001]])
    np.testing.assert_allclose(other, [[5, -1.5]])
    np.testing.assert_allclose(above, [[1, -0.3]])
    assert axis.get_legend().get_title().get_text() == "best optimum found 3 of 6 times, 1 failed"  # type: ignore
    assert legend(axis) == ["kept optimum (3)", "other optimum (1)", "collapsed component (1)"]


def test_a_trace_has_the_draws_of_each_chain(sampled: lv.Fit) -> None:
    figure = drawn(lv.plots.trace(sampled))
    values = sampled.globals.values  # type: ignore[attr-defined]
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert titles == ["weights[0]", "weights[1]", "loc[0]", "loc[1]"]
    tree = sampled.to_datatree(predictive=False, latents=False)
    assert titles == list(arviz_stats.summary(tree).index)  # type: ignore[attr-defined]
    for panel, draws in zip(figure.axes[2:], values["loc"].unbind(-1), strict=True):
        *lines, marks = panel.get_lines()
        np.testing.assert_array_equal([line.get_ydata() for line in lines], draws)
        assert list(marks.get_xdata()) == [17]
    assert legend(figure) == ["chain 0", "chain 1", "chain 2"]


def test_ranks_are_those_of_scipy(sampled: lv.Fit) -> None:
    axis = drawn(lv.plots.ranks(sampled, of="loc[1]")).axes[0]
    draws = sampled.globals.values["loc"][..., 1].numpy()  # type: ignore[attr-defined]
    among = stats.rankdata(draws).reshape(3, 200)
    for step, ranks in zip(steps(axis), among, strict=True):
        np.testing.assert_array_equal(
            step.get_data().values, np.bincount(((ranks - 1) // 30).astype(int), minlength=20)
        )
    band = axis.patches[0].get_extents().transformed(axis.transData.inverted())
    low, high = stats.hypergeom(600, 30, 200).interval(0.95)
    assert (band.y0, band.y1) == (pytest.approx(low), pytest.approx(high))


def test_forest_is_the_summary(mixture: lv.Fit) -> None:
    figure = drawn(lv.plots.forest(mixture, of=["weights", "loc[1, petal width / cm]"], probability=0.5))
    table = mixture.summary(probability=0.5)
    weights, loc = figure.axes
    lines = [line.get_xdata() for line in weights.get_lines()]
    expected = table.loc[[f"weights[{k}]" for k in range(3)]]
    np.testing.assert_allclose(lines[::2], expected[["ci50_lb", "ci50_ub"]])
    np.testing.assert_allclose(np.ravel(lines[1::2]), expected["estimate"])
    assert [tick.get_text() for tick in loc.get_yticklabels()] == ["loc[1, petal width / cm]"]
    assert loc.get_xlabel() == "estimate and 50 % interval"


def test_forest_without_a_standard_error_is_hollow(factors: lv.Fit) -> None:
    with pytest.warns(UserWarning, match="standard errors|identify"):
        axis = lv.plots.forest(factors, of="loadings").axes[0]
    assert {line.get_markerfacecolor() for line in axis.get_lines() if line.get_marker() == "o"} == {"white"}


def test_latent_draws_means_and_spreads(factors: lv.Fit) -> None:
    labels = [IRIS.classes[k] for k in IRIS.target]
    axis = drawn(lv.plots.latent(factors, labels=labels, latents=(1, 0))).axes[0]
    belief = factors.latent()
    clouds = [cloud for cloud in axis.collections if not isinstance(cloud, EllipseCollection)]
    found = np.concatenate([np.asarray(cloud.get_offsets()) for cloud in clouds])
    np.testing.assert_allclose(found, belief.mean()[:, [1, 0]])
    ellipses = next(cloud for cloud in axis.collections if isinstance(cloud, EllipseCollection))
    np.testing.assert_allclose(ellipses.get_widths(), 2 * belief.std()[:, 1])
    np.testing.assert_allclose(ellipses.get_heights(), 2 * belief.std()[:, 0])
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("z[1]", "z[0]")


def test_emissions_of_a_chain_of_counts(chain: lv.Fit) -> None:
    axis = drawn(lv.plots.emissions(chain, names=["high", "low"])).axes[0]
    low, high, total = axis.get_lines()
    share = chain.latent().mean()[0].mean(0).numpy()
    grid = np.arange(QUAKES.x.min(), QUAKES.x.max() + 1)
    np.testing.assert_array_equal(low.get_xdata(), grid)
    expected = share[:, None] * stats.poisson.pmf(grid, [[26.1], [15.5]])
    np.testing.assert_allclose([high.get_ydata(), low.get_ydata()], expected, rtol=1e-9)
    np.testing.assert_allclose(total.get_ydata(), expected.sum(0), rtol=1e-9)
    counts = np.bincount(QUAKES.x)[grid[0] :] / len(QUAKES)
    np.testing.assert_allclose(steps(axis)[0].get_data().values, counts)
    assert legend(axis) == ["data", "low", "high", "sum"]


def test_emissions_of_a_mixture_are_marginal_densities(mixture: lv.Fit) -> None:
    axis = drawn(lv.plots.emissions(mixture, feature="petal length / cm")).axes[0]
    weights, loc, covariance = (mixture.point[name].numpy() for name in ("weights", "loc", "covariance"))
    grid = np.asarray(axis.get_lines()[0].get_xdata())
    for k, line in enumerate(axis.get_lines()[:3]):
        expected = weights[k] * stats.norm.pdf(grid, loc[k, 2], np.sqrt(covariance[k, 2, 2]))
        np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-8, atol=1e-12)
    area = np.trapezoid(np.asarray(axis.get_lines()[3].get_ydata()), grid)
    assert area == pytest.approx(1, abs=0.01)
    heights, edges, _ = steps(axis)[0].get_data()
    assert (heights * np.diff(edges)).sum() == pytest.approx(1)
    assert axis.get_xlabel() == "petal length / cm"


def test_emissions_of_a_users_mixture_and_of_weighted_rows(sampled: lv.Fit) -> None:
    rows = lv.Rows(sampled.rows.columns["x"], weights=[1, 1, 1, 1, 6])
    fit = lv.from_point(TwoHumps(), rows, tensors({"weights": [0.4, 0.6], "loc": [-2.0, 2.0]}))
    axis = lv.plots.emissions(fit).axes[0]
    grid = np.asarray(axis.get_lines()[1].get_xdata())
    np.testing.assert_allclose(axis.get_lines()[1].get_ydata(), 0.6 * stats.norm.pdf(grid, 2, 1), rtol=1e-8)
    heights, edges, _ = steps(axis)[0].get_data()
    assert edges[-2] <= 2.0 and heights[-1] * (edges[-1] - edges[-2]) == pytest.approx(7 / 10)


def test_emissions_of_mixed_columns() -> None:
    emission = lv.emissions.Product(lv.emissions.Gaussian(1), lv.emissions.Poisson(1))
    x = np.stack([np.random.default_rng(0).normal(size=60), np.random.default_rng(1).poisson(4, 60)], 1)
    fit = lv.fit(lv.models.Mixture(2, emission), x, lv.EM(), progress=False)
    counts = lv.plots.emissions(fit, feature=1).axes[0].get_lines()[0]
    weights, rate = fit.point["weights"].numpy(), next(v for n, v in fit.point.items() if "rate" in n).numpy()
    expected = weights[0] * stats.poisson.pmf(np.asarray(counts.get_xdata()), rate[0, 0])
    np.testing.assert_allclose(counts.get_ydata(), expected, rtol=1e-8)
    assert len(np.asarray(lv.plots.emissions(fit, feature=0).axes[0].get_lines()[0].get_xdata())) > 100


def test_all_draw_into_a_given_axis(mixture: lv.Fit, chain: lv.Fit, factors: lv.Fit, sampled: lv.Fit) -> None:
    figure = Figure(figsize=(16, 14), layout="constrained")
    axes = iter(figure.subplots(4, 3).flatten())
    for given in (
        lv.plots.responsibilities(mixture, axis=next(axes)),
        lv.plots.objective(mixture, axis=next(axes)),
        lv.plots.restarts(mixture, axis=next(axes)),
        lv.plots.forest(mixture, of="loc", axis=next(axes)),
        lv.plots.emissions(mixture, axis=next(axes)),
        lv.plots.transitions(chain, axis=next(axes)),
        lv.plots.loadings(factors, axis=next(axes)),
        lv.plots.latent(factors, axis=next(axes)),
        lv.plots.trace(sampled, of="loc[0]", axis=next(axes)),
        lv.plots.ranks(sampled, of="loc[0]", axis=next(axes)),
    ):
        assert given is figure
    drawn(figure)
    assert sum(axis.has_data() or bool(axis.patches) for axis in figure.axes) >= 10


def test_what_cannot_be_drawn_is_refused(mixture: lv.Fit, chain: lv.Fit, factors: lv.Fit, sampled: lv.Fit) -> None:
    for draw, error, match in (
        (lambda: lv.plots.responsibilities(chain), KindError, "states"),
        (lambda: lv.plots.responsibilities(factors), KindError, "discrete"),
        (lambda: lv.plots.responsibilities(mixture, names=["a"]), ShapeError, "1 names"),
        (lambda: lv.plots.transitions(mixture), KindError, "HiddenMarkov"),
        (lambda: lv.plots.transitions(chain, site="rate"), KindError, "sum to one"),
        (lambda: lv.plots.transitions(chain, least=1.0), SettingError, "least"),
        (lambda: lv.plots.loadings(mixture), NameUnknownError, "loadings"),
        (lambda: lv.plots.loadings(mixture, site="weights"), KindError, "weights"),
        (lambda: lv.plots.loadings(mixture, site="loc", standardized=True), KindError, "FactorNormal"),
        (lambda: lv.plots.objective(replace(mixture, history=np.zeros(0))), KindError, "passes"),
        (lambda: lv.plots.restarts(chain), KindError, "single start"),
        (lambda: lv.plots.trace(mixture), KindError, "chains"),
        (lambda: lv.plots.ranks(sampled, of="depth"), NameUnknownError, "depth"),
        (lambda: lv.plots.ranks(sampled, axis=Figure().add_subplot()), ShapeError, "one axis"),
        (lambda: lv.plots.forest(mixture, of="depth"), NameUnknownError, "depth"),
        (lambda: lv.plots.latent(mixture), KindError, "discrete"),
        (lambda: lv.plots.latent(factors, latents=(0, 2)), ShapeError, "latents"),
        (lambda: lv.plots.emissions(factors), KindError, "discrete"),
        (lambda: lv.plots.emissions(mixture, feature="depth"), NameUnknownError, "depth"),
    ):
        with pytest.raises(error, match=match):
            draw()
