"""Graphs that are shortened, mapped and compiled: the same numbers, kept on disk whole or not at all."""

from __future__ import annotations

import functools
import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.mcmc.util import initialize_model
from pyro.ops.integrator import potential_grad
from torch import Tensor

import latentvars as lv
from latentvars.capture import NoCompiler, Potential, Way, capture, folded, from_cpp, packages
from latentvars.errors import SupportError
from latentvars.inference.running.binding import bind

DOUBLE = torch.float64
SCHOOLS = {
    "y": np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
    "sigma": np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
}


class Schools:
    def model(self, rows: lv.Batch) -> None:
        one = torch.ones((), dtype=DOUBLE)
        mu = pyro.sample("mu", dist.Normal(0 * one, 5 * one))
        tau = pyro.sample("tau", dist.HalfCauchy(5 * one))
        effects = pyro.sample("effects", dist.Normal(torch.zeros(8, dtype=DOUBLE), 1.0).to_event(1))
        with rows.plate():
            pyro.sample("y", dist.Normal(mu + tau * effects[rows.index], rows["sigma"]), obs=rows["y"])


class Continuous:
    def model(self, rows: lv.Batch) -> None:
        with rows.plate():
            z = pyro.sample("z", dist.Normal(torch.zeros(len(rows), dtype=DOUBLE), 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=rows["y"])

    def guide(self, rows: lv.Batch) -> None:
        with rows.plate():
            pyro.sample("z", dist.Normal(rows["y"] / 2, 0.7))


def schools() -> tuple[Any, lv.Batch]:
    rows, program = bind(Schools(), SCHOOLS)
    return program, rows.batch(dtype=program.dtype)


def peer(free: Tensor) -> tuple[float, Tensor]:
    """Pyro's own potential, of globals in our order."""
    _, potential, _, _ = initialize_model(Schools().model, (lv.Rows(SCHOOLS).batch(),))
    given = {"mu": free[0], "tau": free[1], "effects": free[2:]}
    gradient, value = potential_grad(potential, given)
    return float(value), torch.cat([gradient[name].reshape(-1) for name in given])


def many_ways(x: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
    """Copies, short sums, constants by shape, ones and zeros, and the same thing twice."""
    wide = scale.expand(7, 3)
    score = -((x - 1.0) ** 2) / (2 * wide**2) - wide.log() - scale.log().expand(7, 3)
    pair = torch.stack([score.sum(-1), score.exp().sum(-1)], -1).sum(-1) + torch.zeros_like(x[:, 0])
    single = x[:, :1].sum(-1) * torch.ones(7, dtype=DOUBLE) - -pair
    return pair * 1 + 0, single.neg().neg(), (torch.ones_like(x).cumsum(0) * x.t().t()).mean()


def test_a_short_graph_gives_the_same_bits() -> None:
    noise = torch.Generator().manual_seed(0)
    x, scale = (torch.rand(shape, dtype=DOUBLE, generator=noise) + 0.1 for shape in ((7, 3), (3,)))
    recorded = capture(many_ways, x, scale, dtype=DOUBLE)
    before = len(recorded.graph.nodes)
    short = folded(recorded)
    assert len(short.graph.nodes) < before
    called = from_cpp(short, x, scale)
    for _ in range(3):
        x, scale = torch.rand_like(x), torch.rand_like(scale) + 0.1
        for own, by_graph, by_cpp in zip(many_ways(x, scale), short(x, scale), called(x, scale), strict=True):
            assert torch.equal(own, by_graph) and torch.equal(own, by_cpp)
            assert own.stride() == by_graph.stride()


def crosswise(x: Tensor, rows: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
    """Values that are repeated along rows over values that are repeated along features."""
    spread = rows[:, None].expand(5_000, 2) / scale.expand(5_000, 2)
    return spread * x, (spread + scale.log().expand(5_000, 2)).sum(0)


def test_results_along_rows_are_the_same_numbers() -> None:
    noise = torch.Generator().manual_seed(0)
    given = [torch.rand(shape, dtype=DOUBLE, generator=noise) + 0.1 for shape in ((5_000, 2), (5_000,), (2,))]
    given[0] = given[0].mT.contiguous().mT
    short = folded(capture(crosswise, *given, dtype=DOUBLE), exact=False)
    assert any(node.name.startswith("transpose") for node in short.graph.nodes)
    for own, found in zip(crosswise(*given), short(*given), strict=True):
        torch.testing.assert_close(found, own, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("fastest", [Way.MODEL, Way.GRAPH])
def test_the_potential_is_pyros(fastest: Way) -> None:
    program, batch = schools()
    potential = Potential.of(program, batch, fastest=fastest)
    assert potential.way is fastest and not potential.reasons
    for seed in range(3):
        free = torch.randn(10, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))
        value, gradient = peer(free)
        ours = potential.numpy(free.numpy())
        assert ours[0] == pytest.approx(value, rel=1e-12)
        np.testing.assert_allclose(ours[1], gradient.numpy(), rtol=1e-10, atol=1e-12)


def test_without_a_compiler_the_graph_is_run_and_a_warning_says_so(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv(packages.VARIABLE, str(tmp_path))

    def absent() -> None:
        raise NoCompiler("no C++ compiler was found")

    monkeypatch.setattr(packages, "_check_compiler", absent)
    program, batch = schools()
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler") as found:
        potential = Potential.of(program, batch)
    assert potential.way is Way.GRAPH and len(found) == 1
    algorithm = lv.SVI(passes=3, stop=lv.Never(), compile=True)
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler") as found:
        fit = lv.fit(Schools(), SCHOOLS, algorithm, progress=False)
    assert len(found) == 1 and "not compiled" in str(fit)
    plain = lv.fit(Schools(), SCHOOLS, lv.SVI(passes=3, stop=lv.Never(), capture=None), progress=False)
    assert np.array_equal(fit.history, plain.history)


def test_continuous_locals_have_no_density_to_sample() -> None:
    rows, program = bind(Continuous(), {"y": SCHOOLS["y"]})
    with pytest.raises(SupportError, match="SVI"):
        Potential.of(program, rows.batch(dtype=program.dtype))


def test_a_density_is_compiled_where_its_gradients_pay_for_it(monkeypatch: Any) -> None:
    """By operations and draws alone, so that a run repeats: no clock, no look at what lies on the disk."""
    module, asked = importlib.import_module("latentvars.capture.potential"), []

    def refused(*given: Any) -> Any:
        asked.append(given)
        raise NoCompiler("no C++ compiler was found")

    monkeypatch.setattr(module, "compiled", refused)
    program, batch = schools()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Potential.of(program, batch, gradients=10_000).way is Way.GRAPH and not asked
        assert Potential.of(program, batch, gradients=10_000_000).way is Way.GRAPH and len(asked) == 1
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler"):
        Potential.of(program, batch)
    sampler = {"draws": 3, "tune": 3, "chains": 1, "max_tree_depth": 2}
    for compile_, calls in ((None, 0), (False, 0), (True, 1)):
        asked.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lv.fit(Schools(), SCHOOLS, lv.NUTS(**sampler, compile=compile_), progress=False)
        assert len(asked) == calls


def test_compiled_code_is_kept_and_found_again(tmp_path: Path, monkeypatch: Any) -> None:
    try:
        packages._check_compiler()
    except NoCompiler as error:
        pytest.skip(str(error))
    monkeypatch.setenv(packages.VARIABLE, str(tmp_path))

    def function(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return (x * y).sin().sum(), x - 2 * y

    x, y = torch.rand(5, dtype=DOUBLE), torch.rand(5, dtype=DOUBLE)
    graph = folded(capture(function, x, y, dtype=DOUBLE))
    with pytest.warns(UserWarning, match="once on this machine"):
        first = packages.compiled(graph, x, y)
    kept = list((tmp_path / "graphs").iterdir())
    assert [path.suffix for path in kept] == [".pt2"]  # whole, and nothing beside it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = packages.compiled(graph, x, y)
    for code in (first, again):
        for found, expected in zip(code(y, x), function(y, x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    kept[0].write_bytes(b"broken")
    assert packages._loaded(kept[0]) is None and not kept[0].exists()


def scaled(constant: Tensor, x: Tensor) -> tuple[Tensor]:
    return (x * constant,)


def test_digests_tell_graphs_apart() -> None:
    x = torch.ones(3, dtype=DOUBLE)
    constants = [torch.arange(3.0, dtype=DOUBLE), torch.arange(1.0, 4.0, dtype=DOUBLE)]
    graphs = [folded(capture(functools.partial(scaled, constant), x, dtype=DOUBLE)) for constant in constants]
    digests = [packages.digest(graph, x) for graph in graphs]
    assert digests[0] != digests[1] and digests[0] == packages.digest(graphs[0], x)
    assert packages.digest(graphs[0], torch.ones(4, dtype=DOUBLE)) != digests[0]


def test_compiling_needs_recording() -> None:
    with pytest.raises(lv.errors.SettingError, match="capture"):
        lv.SVI(compile=True, capture=None)
