"""Steps of SVI as recorded graphs: they give what the model's own code gives, to the bit, or are not used."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import latentvars as lv
from latentvars.errors import NumericalError
from latentvars.inference.svi.svi import built

AT_ONCE = lv.Capture(wait=0, least=0)
OBSERVED = np.random.default_rng(0).normal(size=(23, 2)) + 3.0 * np.repeat([[0.0], [1.0]], [11, 12], 0)


def ones(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.float64)


class Mixture:
    def model(self, rows: lv.Batch) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(ones(2)))
        loc = pyro.sample("loc", dist.Normal(0 * ones(2, 2), 5.0).to_event(2))
        scale = pyro.sample("scale", dist.LogNormal(0 * ones(2, 2), 1.0).to_event(2))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], scale[z]).to_event(1), obs=rows["x"])


class Correlated:
    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", dist.Normal(0 * ones(2), 5.0).to_event(1))
        factor = pyro.sample("factor", dist.LKJCholesky(2, 2.0 * ones()))
        with rows.plate():
            pyro.sample("x", dist.MultivariateNormal(loc, covariance_matrix=factor @ factor.mT), obs=rows["x"])


class Steps:
    """Ragged sequences of independent steps."""

    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", dist.Normal(0 * ones(2), 5.0).to_event(1))
        with rows.plate():
            steps = dist.Normal(loc, 1.0).expand(rows["x"].shape).to_event(1)
            pyro.sample("x", steps.mask(rows.mask).to_event(1), obs=rows["x"])


class Network:
    """A decoder and an encoder in float32; ``middle`` stands between the layers of the encoder."""

    def __init__(self, *middle: nn.Module) -> None:
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(2, 4), *middle, nn.ReLU(), nn.Linear(4, 2))
        self.decoder = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 2))

    def model(self, rows: lv.Batch) -> None:
        with rows.plate():
            z = pyro.sample("z", dist.Normal(torch.zeros(len(rows), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=rows["x"])

    def guide(self, rows: lv.Batch) -> None:
        with rows.plate():
            loc, log_scale = self.encoder(rows["x"]).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class Branching(Mixture):
    """Looks at values."""

    def model(self, rows: lv.Batch) -> None:
        if float(rows["x"].sum()) > -1e9:
            super().model(rows)


class Frozen:
    """Reads data behind torch's back, which a graph would keep for ever."""

    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", dist.Normal(0 * ones(2), 5.0).to_event(1))
        hidden = torch.from_numpy(rows["x"].numpy().copy())
        with rows.plate():
            pyro.sample("x", dist.Normal(loc, 1 + hidden.abs().mean(-1, keepdim=True)).to_event(1), obs=rows["x"])


class OwnGuide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(ones(2))

    def forward(self) -> None:
        pyro.sample("loc", dist.Normal(self.loc, 0.1).to_event(1))


def weighted() -> lv.Rows:
    return lv.Rows({"x": OBSERVED}, weights=np.arange(23) % 3 + 0.5)


def ragged() -> lv.Rows:
    lengths = [3, 1, 2, 3, 2, 3, 3, 1, 2, 3]
    return lv.Rows({"x": OBSERVED}, lengths=lengths)


def missing() -> lv.Rows:
    return lv.Rows({"x": np.where(np.arange(46).reshape(23, 2) % 7 == 0, np.nan, OBSERVED)})


def both(model: Any, data: Any, algorithm: lv.SVI, **settings: Any) -> tuple[lv.Fit, lv.Fit]:
    """The same fit by graphs and by the model's own code."""
    fits = [
        lv.fit(copy.deepcopy(model), data, replace(algorithm, capture=how, stop=lv.Never()), progress=False, **settings)
        for how in (AT_ONCE, None)
    ]
    return fits[0], fits[1]


def assert_same(one: lv.Fit, other: lv.Fit) -> None:
    assert np.array_equal(one.history, other.history)
    for name, weight in one.state.parameters.items():
        assert torch.equal(weight, other.state.parameters[name]), name


SHORT = lv.SVI(passes=12)
RECORDED: dict[str, tuple[Callable[[], Any], Callable[[], lv.Rows], lv.SVI, int]] = {
    "mixture": (Mixture, weighted, SHORT, 1),
    "smaller last batch": (Mixture, weighted, replace(SHORT, batch_size=10), 2),
    "accumulated": (Mixture, weighted, replace(SHORT, batch_size=10, batches_per_step=2), 2),
    "particles, full rank": (Mixture, weighted, replace(SHORT, particles=3, guide=lv.FullRank()), 1),
    "point": (Mixture, weighted, replace(SHORT, guide=lv.Delta()), 1),
    "low rank": (Correlated, weighted, replace(SHORT, guide=lv.LowRank(2)), 1),
    "ragged": (Steps, ragged, SHORT, 1),
    "network": (Network, weighted, replace(SHORT, batch_size=10), 2),
    "network, particles": (Network, weighted, replace(SHORT, particles=3), 1),
    "importance": (Network, weighted, replace(SHORT, particles=3, importance=True), 1),
    "warm-up and clip": (Network, weighted, replace(SHORT, kl_warmup=8, clip=0.1, kl_weight=0.7), 1),
}


@pytest.mark.parametrize("case", RECORDED)
def test_a_recorded_step_is_the_step_to_the_bit(case: str) -> None:
    model, rows, algorithm, graphs = RECORDED[case]
    made = model()
    before = torch.get_rng_state()
    by_graph, by_code = both(made, rows(), algorithm)
    assert torch.equal(torch.get_rng_state(), before)
    assert by_graph.state.recorded.reason is None
    assert len(by_graph.state.recorded.graphs) == graphs
    assert all(graph.checks == 0 for graph in by_graph.state.recorded.graphs.values())
    assert_same(by_graph, by_code)


REFUSED: dict[str, tuple[Callable[[], Any], Callable[[], lv.Rows], lv.SVI, str]] = {
    "batch normalisation": (lambda: Network(nn.BatchNorm1d(4)), weighted, SHORT, "BatchNorm1d"),
    "dropout": (lambda: Network(nn.Dropout(0.5)), weighted, SHORT, "Dropout"),
    "missing entries": (Mixture, missing, SHORT, "missing"),
    "control flow": (Branching, weighted, SHORT, "value"),
    "hidden data": (Frozen, weighted, replace(SHORT, batch_size=10), "does not give"),
    "own guide": (Steps, ragged, replace(SHORT, guide=lv.Custom(OwnGuide())), "your own"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_recorded_runs_as_before_and_says_why(case: str) -> None:
    model, rows, algorithm, reason = REFUSED[case]
    by_graph, by_code = both(model(), rows(), algorithm)
    assert reason in by_graph.state.recorded.reason
    assert reason in str(by_graph) and reason not in str(by_code)
    assert_same(by_graph, by_code)


def test_a_resumed_run_is_the_uninterrupted_one() -> None:
    whole, _ = both(Network(), weighted(), replace(SHORT, batch_size=10))
    algorithm = replace(SHORT, batch_size=10, passes=5, capture=AT_ONCE, stop=lv.Never())
    first = lv.fit(Network(), weighted(), algorithm, progress=False)
    resumed = lv.fit(Network(), weighted(), replace(algorithm, passes=12), resume=first, progress=False)
    assert first.state.recorded.graphs and resumed.state.recorded is not first.state.recorded
    assert_same(resumed, whole)


def test_a_step_is_recorded_where_that_pays() -> None:
    rows = weighted()
    for capture, passes, graphs in (
        (lv.Capture(), 60, 0),
        (lv.Capture(wait=5, least=10), 12, 0),
        (lv.Capture(wait=5, least=10), 20, 1),
        (None, 20, 0),
    ):
        found = lv.fit(Mixture(), rows, lv.SVI(passes=passes, stop=lv.Never(), capture=capture), progress=False)
        assert len(found.state.recorded.graphs) == graphs
        assert found.state.recorded.reason is None
    few = lv.SVI(passes=9, batch_size=10, stop=lv.Never(), capture=replace(AT_ONCE, most=1))
    assert len(lv.fit(Mixture(), rows, few, progress=False).state.recorded.graphs) == 1


def test_errors_are_those_of_the_models_own_code() -> None:
    wild = lv.SVI(passes=40, optimizer=functools.partial(torch.optim.SGD, lr=1e6), stop=lv.Never())
    texts = []
    for capture in (AT_ONCE, None):
        with pytest.raises(NumericalError) as caught:
            lv.fit(Correlated(), weighted(), replace(wild, capture=capture), progress=False)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_fused_steps_are_those_of_torch_to_rounding(kind: Any) -> None:
    start = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fused, plain = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    one, other = built(functools.partial(kind, lr=0.1), {"a": fused}), kind([plain], lr=0.1)
    assert one.param_groups[0]["fused"]
    for _ in range(50):
        for weight, optimizer in ((fused, one), (plain, other)):
            weight.grad = (weight.detach() - 1) ** 3
            optimizer.step()
    torch.testing.assert_close(fused, plain, rtol=1e-12, atol=1e-12)
    asked = built(functools.partial(kind, lr=0.1, foreach=True), {"a": fused})
    assert not asked.param_groups[0]["fused"]
