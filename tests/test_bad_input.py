"""Bad input: each is refused with what was given, what is needed and what to do, and nothing is changed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cases
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import user_models
from pyro import poutine
from torch import nn

import latentvars as lv
from latentvars.errors import (
    DataError,
    KindError,
    LatentVarsError,
    MissingDataError,
    ModelError,
    NameUnknownError,
    NumericalError,
    SettingError,
    ShapeError,
    SupportError,
)


@contextmanager
def refused(kind: type[LatentVarsError], *words: str) -> Iterator[None]:
    """The error is of this class, complete, and its message has these words."""
    generator = torch.get_rng_state()
    precision, names = torch.get_default_dtype(), sorted(pyro.get_param_store().keys())
    with pytest.raises(LatentVarsError) as caught:
        yield
    error = caught.value
    assert isinstance(error, kind), f"{type(error).__name__}: {error}"
    assert error.given and error.needed and error.remedy
    for word in words:
        assert word in str(error), f"{word!r} is not in: {error}"
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.get_default_dtype() == precision
    assert sorted(pyro.get_param_store().keys()) == names


def fitted(model: Any, data: Any, algorithm: Any = None, **settings: Any) -> lv.Fit:
    return lv.fit(model, data, algorithm or lv.EM(passes=2), progress=False, **settings)


# --- data ------------------------------------------------------------------------------------------------------------


def test_wrong_number_of_features() -> None:
    with refused(ShapeError, "2 features", "3 features"):
        fitted(lv.models.GaussianMixture(2, 3), cases.blobs(1))
    with refused(ShapeError, "2 features", "3 features"):
        fitted(lv.models.VAE.mlp(3, 1, (4,), "gaussian"), cases.blobs(1), lv.SVI(passes=1))
    found = fitted(lv.models.GaussianMixture(2), cases.blobs(1))
    before = copy.deepcopy(found.point)
    for verb in (found.latent, found.score_rows):
        with refused(ShapeError, "3 features", "2 features"):
            verb(np.zeros((4, 3)))
    assert all(torch.equal(found.point[name], value) for name, value in before.items())


def test_values_in_another_layout_than_their_distribution() -> None:
    for x in (cases.blobs(1), cases.line(5)[:, None]):
        with refused(ShapeError, "'x'", f"[3, {x.shape[1]}]", "[3]"):
            fitted(user_models.ExplicitMixture(), x)
    with refused(ShapeError, "'x'", "[3, 2]", "[3]", "features"):
        fitted(Observing(dist.Normal(torch.zeros(3), 1.0).to_event(1)), cases.blobs(1))
    with refused(ShapeError, "'x'", "[3]"):
        fitted(Observing(dist.Normal(torch.zeros(1), 1.0).to_event(1)), cases.line(5))
    with refused(ShapeError, "'x'", "[3, 2]"):
        fitted(ColumnsInAPlate(), cases.blobs(1))


def test_other_data_than_those_of_the_fit() -> None:
    found = fitted(user_models.Regression(), cases.trend())
    with refused(NameUnknownError, "'t'"):
        found.score_rows({"y": np.zeros(3)})
    chain = fitted(user_models.ExplicitMixture(), cases.line(21))
    with refused(ShapeError, "sequences", "single observations"):
        chain.score_rows(lv.Rows(np.zeros(4), lengths=[1, 3]))


def test_empty_data() -> None:
    for data in (np.zeros((0, 2)), [], {"x": np.zeros(0)}):
        with refused(DataError, "0"):
            fitted(lv.models.GaussianMixture(2), data)


def test_infinite_values() -> None:
    x = cases.blobs(1)
    x[3, 1] = -np.inf
    with refused(DataError, "'x'", "1 infinite", "(3, 1)"):
        fitted(lv.models.GaussianMixture(2), x)
    with refused(DataError, "'income'", "(0, 1)"):
        fitted(lv.models.GaussianMixture(2), {"income": -x[3:]})


@pytest.mark.parametrize("form", ["full", "tied", "diag"])
def test_a_constant_column_where_a_variance_is_estimated(form: str) -> None:
    x = np.column_stack([cases.blobs(1), np.full(40, 3.0)])
    with refused(DataError, "'x2'", "constant", "40"):
        fitted(lv.models.GaussianMixture(2, covariance=form), x)
    with refused(DataError, "constant", "'x2'"):
        fitted(lv.models.HiddenMarkov(2, lv.emissions.Gaussian(covariance=form)), lv.Rows(x, lengths=[20, 20]))


def test_more_components_than_rows() -> None:
    with refused(SettingError, "7 components", "5 rows"):
        fitted(lv.models.GaussianMixture(7), cases.blobs(1)[:5])
    with refused(SettingError, "7 states", "5 steps"):
        fitted(lv.models.HiddenMarkov(7, lv.emissions.Gaussian(2)), lv.Rows(cases.blobs(1)[:5], lengths=[3, 2]))
    with refused(SettingError, "4 components", "3 rows"):
        weights = np.r_[np.ones(3), np.zeros(37)]
        fitted(lv.models.GaussianMixture(4), lv.Rows(cases.blobs(1), weights=weights))


def test_lengths_that_do_not_sum_to_the_steps() -> None:
    with refused(ShapeError, "39", "40"):
        lv.Rows(cases.blobs(1), lengths=[20, 19])
    with refused(ShapeError, "-20"):
        lv.Rows(cases.blobs(1), lengths=[60, -20])


def test_missing_values_that_a_model_computes_with() -> None:
    rows = cases.trend()
    t = rows.columns["t"].numpy().copy()
    t[4] = np.nan
    with refused(MissingDataError, "'t'"):
        fitted(user_models.Regression(), {"y": rows.columns["y"], "t": t})


def test_values_outside_the_support() -> None:
    with refused(DataError, "-1", "position 7"):
        fitted(lv.models.Mixture(2, lv.emissions.Poisson(1)), np.where(np.arange(20) == 7, -1, 3))
    with refused(DataError):
        fitted(lv.models.Mixture(2, lv.emissions.Bernoulli(2)), cases.blobs(1))


@pytest.mark.parametrize(
    ("law", "wrong"), [(dist.LogNormal(0.0, 1.0), 0.0), (dist.Exponential(1.0), -1.0), (dist.Poisson(2.0), 1.5)]
)
def test_values_outside_the_support_of_a_users_model(law: Any, wrong: float) -> None:
    x = np.round(np.exp(cases.line(3))) + 1
    x[[3, 17]] = wrong
    with refused(DataError, "'x'", type(law).__name__, "2 rows", "[3, 17]"):
        lv.from_point(Observing(law), x, {})
    with refused(DataError, "'x'", "1 rows", "[3]"):
        lv.from_point(Observing(dist.Normal(0.0, 1.0).expand([2]).to_event(1), law), np.column_stack([x, x])[:5], {})


def test_values_of_density_zero_are_named_with_their_rows() -> None:
    with refused(NumericalError, "'x'", "[4, 9]", "pass 1"):
        fitted(Bounded(), np.where(np.isin(np.arange(20), [4, 9]), 5.0, 0.5), start={"top": 2.0})


# --- models ----------------------------------------------------------------------------------------------------------


@dataclass
class Observing:
    """Column x (or its columns) from fixed laws."""

    law: Any
    second: Any = None

    def model(self, rows: lv.Batch) -> None:
        with rows.plate():
            if self.second is None:
                pyro.sample("x", self.law, obs=rows.x)
            else:
                pyro.sample("all", self.law, obs=rows.x)
                pyro.sample("x", self.second.expand([2]).to_event(1), obs=rows.x)


class Bounded:
    def model(self, rows: lv.Batch) -> None:
        top = pyro.sample("top", lv.flat((), torch.distributions.constraints.positive))
        with rows.plate():
            pyro.sample("x", dist.Uniform(0.0, top), obs=rows.x)


class ColumnsInAPlate:
    """Two columns in a plate left of the rows, not transposed."""

    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with rows.plate(), pyro.plate("columns", 2, dim=-2):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=rows.x)


class LogNormalModel:
    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with rows.plate():
            pyro.sample("x", dist.LogNormal(loc, 1.0), obs=rows.x)


class OutsideThePlate:
    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2).expand([len(rows)]))
        with rows.plate():
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=rows.x)


class Writing:
    """To a view of its rows."""

    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        x = rows.x
        x[:1].mul_(0.5)
        with rows.plate():
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


class ObservedOutsideThePlate:
    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(loc, 1.0).expand([len(rows)]), obs=rows.x)


class PlateOfItsOwn:
    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(rows)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=rows.x)


class DiscreteGlobal:
    def model(self, rows: lv.Batch) -> None:
        many = pyro.sample("many", dist.Poisson(3.0))
        with rows.plate():
            pyro.sample("x", dist.Normal(many, 1.0), obs=rows.x)


class NoGuide:
    def model(self, rows: lv.Batch) -> None:
        with rows.plate():
            height = pyro.sample("height", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(height, 1.0), obs=rows.x)


@dataclass
class WithGuide:
    """``NoGuide`` with the guide that is given."""

    how: str

    def model(self, rows: lv.Batch) -> None:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with rows.plate():
            height = pyro.sample("height", dist.Normal(0.0, 1.0))
            kind = pyro.sample("kind", dist.Categorical(torch.ones(2) / 2))
            pyro.sample("x", dist.Normal(height + kind, scale), obs=rows.x)

    def guide(self, rows: lv.Batch) -> None:
        if self.how == "outside":
            pyro.sample("height", dist.Normal(rows.x, 1.0).to_event(1))
            return
        with rows.plate():
            if self.how == "other name":
                pyro.sample("width", dist.Normal(rows.x, 1.0))
            elif self.how == "discrete too":
                pyro.sample("height", dist.Normal(rows.x, 1.0))
                pyro.sample("kind", dist.Categorical(torch.ones(2) / 2))
            elif self.how == "no gradient":
                pyro.sample("height", dist.Poisson(torch.ones(len(rows))))
            elif self.how == "parameter":
                pyro.sample("height", dist.Normal(rows.x * pyro.param("slope", torch.tensor(1.0)), 1.0))


class Parameter:
    def model(self, rows: lv.Batch) -> None:
        loc = pyro.param("loc", torch.tensor(0.0))
        with rows.plate():
            pyro.sample("x", dist.Normal(loc, 1.0), obs=rows.x)


class Module:
    def __init__(self) -> None:
        self.network = nn.Linear(1, 1)

    def model(self, rows: lv.Batch) -> None:
        network = pyro.module("network", self.network)
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with rows.plate():
            pyro.sample("x", dist.Normal(network(rows.x[:, None])[:, 0], scale), obs=rows.x)


class Scaled:
    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with rows.plate(), poutine.scale(scale=2.5):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=rows.x)


class ScaledGlobal:
    def model(self, rows: lv.Batch) -> None:
        with poutine.scale(scale=0.5):
            loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with rows.plate():
            pyro.sample("x", dist.Normal(loc, 1.0), obs=rows.x)


class Endless:
    def model(self, rows: lv.Batch) -> None:
        rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
        with rows.plate():
            count = pyro.sample("count", dist.Poisson(rate))
            pyro.sample("x", dist.Normal(count, 1.0), obs=rows.x)


class NothingObserved:
    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with rows.plate():
            pyro.sample("z", dist.Bernoulli(torch.sigmoid(loc)))


class SometimesThere:
    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        if len(rows) > 2:
            pyro.sample("extra", dist.Normal(0.0, 1.0))
        with rows.plate():
            pyro.sample("x", dist.Normal(loc, 1.0), obs=rows.x)


class LooseWeights:
    def __init__(self, weights: Any) -> None:
        self.weights = weights

    def model(self, rows: lv.Batch) -> None:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with rows.plate():
            pyro.sample("x", dist.Normal(0.0, scale), obs=rows.x)


class NotCopyable:
    def __init__(self) -> None:
        self.stream = (number for number in range(3))

    def model(self, rows: lv.Batch) -> None:
        with rows.plate():
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=rows.x)


BROKEN: dict[str, tuple[Callable[[], Any], type[LatentVarsError], tuple[str, ...]]] = {
    "local outside the plate": (OutsideThePlate, ModelError, ("'z'", "rows.plate()")),
    "observation outside the plate": (ObservedOutsideThePlate, ModelError, ("'x'", "rows.plate()")),
    "rows written to": (Writing, ModelError, ("Writing.model", "rows.x", "clone()")),
    "a plate of its own": (PlateOfItsOwn, ModelError, ("'x'", "rows.plate()")),
    "discrete global": (DiscreteGlobal, SupportError, ("'many'", "Poisson")),
    "no guide": (NoGuide, ModelError, ("'height'", "guide(rows)")),
    "guide of another name": (lambda: WithGuide("other name"), ModelError, ("'width'", "'height'")),
    "guide of a discrete local": (lambda: WithGuide("discrete too"), ModelError, ("'kind'",)),
    "guide outside the plate": (lambda: WithGuide("outside"), ModelError, ("'height'",)),
    "guide without gradients": (lambda: WithGuide("no gradient"), SupportError, ("'height'", "Poisson")),
    "pyro.param in the guide": (lambda: WithGuide("parameter"), ModelError, ("'slope'", "pyro.param")),
    "pyro.param": (Parameter, ModelError, ("'loc'", "pyro.param", "lv.flat")),
    "pyro.module": (Module, ModelError, ("network", "pyro.module")),
    "poutine.scale": (Scaled, ModelError, ("'x'", "2.5", "weights")),
    "poutine.scale of a global": (ScaledGlobal, ModelError, ("'loc'", "0.5")),
    "a local with infinitely many values": (Endless, SupportError, ("'count'", "Poisson")),
    "nothing observed": (NothingObserved, ModelError, ("obs",)),
    "sites of some batches only": (SometimesThere, ModelError, ("'extra'",)),
    "a parameter beside the modules": (
        lambda: LooseWeights(nn.Parameter(torch.zeros(2))),
        ModelError,
        ("'weights'", "nn.Module"),
    ),
    "networks in a list": (lambda: LooseWeights([nn.Linear(1, 1)]), ModelError, ("'weights'", "ModuleList")),
    "a model that cannot be copied": (NotCopyable, ModelError, ("NotCopyable", "copy")),
    "no model at all": (object, ModelError, ("model",)),
    "a class in the place of a model": (lambda: LogNormalModel, ModelError, ("LogNormalModel", "instance")),
}


@pytest.mark.parametrize("name", list(BROKEN))
@pytest.mark.parametrize("verb", ["EM", "SVI", "from_point"])
def test_a_model_that_breaks_the_contract(name: str, verb: str) -> None:
    make, kind, words = BROKEN[name]
    model, rows = make(), lv.Rows(cases.line(5))
    fields, digest = fields_of(model), rows.digest()
    with refused(kind, *words):
        if verb == "from_point":
            lv.from_point(model, rows, {})
        else:
            fitted(model, rows, lv.EM(passes=2) if verb == "EM" else lv.SVI(passes=2))
    assert fields_of(model) == fields
    assert rows.digest() == digest


def fields_of(model: Any) -> dict[str, Any]:
    return dict(getattr(model, "__dict__", {}))


def test_a_guide_for_some_of_the_globals() -> None:
    def too_few() -> None:
        pyro.sample("loc", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    with refused(ModelError, "'loc'", "'weights'"):
        fitted(user_models.ExplicitMixture(), cases.line(5), lv.SVI(passes=1, guide=lv.Custom(too_few)))


def test_a_guide_for_the_globals_that_cannot_be_trained() -> None:
    def fixed() -> None:
        pyro.sample("loc", dist.Normal(0.0, 1.0))

    def stored() -> None:
        pyro.sample("loc", dist.Normal(pyro.param("middle", torch.tensor(0.0)), 1.0))

    def outside() -> None:
        pyro.sample("scale", dist.Normal(-5.0, 0.1))

    class Discrete(nn.Module):
        def forward(self) -> None:
            pyro.sample("loc", dist.Poisson(3.0))

    with refused(ModelError, "nn.Parameter"):
        fitted(LogNormalModel(), np.exp(cases.line(5)), lv.SVI(passes=1, guide=lv.Custom(fixed)))
    with refused(ModelError, "'middle'"):
        fitted(LogNormalModel(), np.exp(cases.line(5)), lv.SVI(passes=1, guide=lv.Custom(stored)))
    with refused(ModelError, "'loc'", "Poisson"):
        fitted(LogNormalModel(), np.exp(cases.line(5)), lv.SVI(passes=1, guide=lv.Custom(Discrete())))
    with refused(ModelError, "'scale'", "-"):
        fitted(LooseWeights(None), cases.line(5), lv.SVI(passes=1, guide=lv.Custom(outside)))


# --- algorithms ------------------------------------------------------------------------------------------------------


def test_em_refuses_what_only_svi_can_fit() -> None:
    factors = user_models.FactorAnalysis(3, 2)
    with refused(SupportError, "'z'", "SVI"):
        fitted(factors, cases.factors())
    with refused(SupportError, "'z'", "SVI"):
        fitted(lv.models.VAE.mlp(2, 1, (4,), "gaussian"), cases.blobs(1))


def test_nothing_to_fit() -> None:
    class Fixed:
        def model(self, rows: lv.Batch) -> None:
            with rows.plate():
                pyro.sample("x", dist.Normal(0.0, 1.0), obs=rows.x)

    with refused(SupportError, "without globals", "from_point"):
        fitted(Fixed(), cases.line(5), lv.SVI(passes=1))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: lv.EM(passes=-1), ("passes=-1",)),
        (lambda: lv.EM(restarts=0), ("restarts=0",)),
        (lambda: lv.EM(passes=2.5), ("passes=2.5",)),  # type: ignore[arg-type]
        (lambda: lv.EM(restarts="3"), ("restarts='3'",)),  # type: ignore[arg-type]
        (lambda: lv.SVI(optimizer=torch.optim.Adam([nn.Parameter(torch.zeros(1))])), ("Adam", "factory")),
        (lambda: fitted(LogNormalModel(), np.exp(cases.line(5)), lv.SVI(optimizer=torch.optim.LBFGS)), ("LBFGS",)),
        (lambda: lv.EM(batch_size=0), ("batch_size=0",)),
        (lambda: lv.EM(variance_floor=1.5), ("variance_floor=1.5",)),
        (lambda: lv.SVI(passes=-1), ("passes=-1",)),
        (lambda: lv.SVI(particles=0), ("particles=0",)),
        (lambda: lv.SVI(batch_size=0), ("batch_size=0",)),
        (lambda: lv.SVI(batches_per_step=0), ("batches_per_step=0",)),
        (lambda: lv.SVI(importance=True), ("importance=True",)),
        (lambda: lv.SVI(kl_weight=-0.5), ("kl_weight=-0.5",)),
        (lambda: lv.SVI(kl_warmup=-1), ("kl_warmup=-1",)),
        (lambda: lv.SVI(clip=-1.0), ("clip=-1",)),
        (lambda: lv.MeanField(scale=0.0), ("scale=0",)),
        (lambda: lv.LowRank(rank=0), ("rank=0",)),
        (lambda: lv.Tolerance(-1.0), ("per_row=-1",)),
        (lambda: lv.Plateau(window=1), ("window=1",)),
        (lambda: lv.TimeLimit(-1.0), ("seconds=-1",)),
        (lambda: fitted(user_models.ExplicitMixture(), cases.line(5), seed=-1), ("seed=-1",)),
        (lambda: lv.from_point(Observing(dist.Normal(0.0, 1.0)), cases.line(5), {}, seed=-2), ("seed=-2",)),
        (lambda: lv.models.GaussianMixture(0), ("components=0",)),
        (lambda: lv.models.GaussianMixture(2, covariance="round"), ("'round'",)),
        (lambda: lv.models.HiddenMarkov(2, lv.emissions.Poisson(), initial="uniform"), ("'uniform'",)),
    ],
)
def test_settings_outside_their_range(make: Callable[[], Any], words: tuple[str, ...]) -> None:
    with refused(SettingError, *words):
        make()


def test_starts_that_do_not_fit() -> None:
    model, x = user_models.ExplicitMixture(), cases.line(5)
    with refused(NameUnknownError, "'mean'", "'loc'"):
        fitted(model, x, start={"mean": [0.0, 1.0]})
    with refused(ModelError, "'loc'", "[3]", "[2]"):
        fitted(model, x, start={"loc": [0.0, 1.0, 2.0]})
    with refused(ModelError, "'scale'", "-1"):
        fitted(model, x, start={"scale": [1.0, -1.0]})
    with refused(ModelError, "'weights'", "edge"):
        fitted(model, x, lv.SVI(passes=1), start={"weights": [0.0, 1.0]})
    with refused(ModelError, "'weights'"):
        fitted(model, x, start={"weights": [0.5, 0.6]})


def test_a_point_must_give_every_global() -> None:
    with refused(NameUnknownError, "'scale'", "'weights'"):
        lv.from_point(user_models.ExplicitMixture(), cases.line(5), {"loc": [0.0, 1.0]})


def test_arguments_that_are_something_else() -> None:
    model, x = user_models.ExplicitMixture(), cases.line(5)
    with refused(KindError, "EM", "lv.EM()"):
        fitted(model, x, lv.EM)
    with refused(KindError, "start=", "list"):
        fitted(model, x, start=[0.0, 1.0])
    with refused(KindError, "resume=", "int"):
        fitted(model, x, resume=3)
    with refused(ModelError, "'loc'", "numbers"):
        fitted(model, x, start={"loc": "zero"})
    with refused(KindError, "NoneType"):
        fitted(model, None)


def test_resuming_with_another_algorithm_or_other_data() -> None:
    found = fitted(user_models.ExplicitMixture(), cases.line(5))
    with refused(DataError, "24 rows", "start=fit.point"):
        fitted(user_models.ExplicitMixture(), cases.line(6), resume=found)
    with refused(SettingError, "EM", "SVI", "start=fit.point"):
        fitted(user_models.ExplicitMixture(), cases.line(5), lv.SVI(passes=3), resume=found)


def test_latents_that_do_not_exist() -> None:
    found = fitted(user_models.ExplicitMixture(), cases.line(5))
    with refused(NameUnknownError, "'height'", "'z'"):
        found.latent().mean("height")
    none = fitted(user_models.Regression(), cases.trend())
    with refused(NameUnknownError, "fit.point"):
        none.latent().mean()


def test_a_covariance_that_collapses_is_a_numerical_error() -> None:
    x = np.concatenate([np.zeros((6, 2)), cases.blobs(1)])
    spread = np.stack([1e-4 * np.eye(2), np.eye(2)])
    start = {"weights": [0.1, 0.9], "loc": [[0.0, 0.0], [1.0, -1.0]], "covariance": spread}
    with refused(NumericalError, "positive definite"):
        fitted(lv.models.GaussianMixture(2), x, lv.EM(passes=400, variance_floor=0.0), start=start)
