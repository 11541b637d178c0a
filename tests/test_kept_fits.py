"""A run that an error breaks off leaves the fit before it, which can be read, saved and resumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import user_models
from pyro.distributions import constraints

import latentvars as lv
from latentvars.errors import DataError, ModelError, NumericalError, SettingError, SupportError


def check_usable(fit: lv.Fit, folder: Path, model: Any = None) -> None:
    """Everything that a user would do with a fit works, and gives finite numbers."""
    assert fit.status is lv.Status.FAILED and not fit.status.converged
    assert all(bool(value.isfinite().all()) for value in fit.point.values())
    assert np.isfinite(fit.log_likelihood) and np.isfinite(fit.history).all()
    assert bool(fit.latent().mean("z").isfinite().all())
    assert np.isfinite(fit.summary(errors=None).iloc[:, 0]).all()
    assert "broken off" in str(fit)
    again = lv.load(fit.save(folder / "fit", datatree=False), model)
    assert again.status is lv.Status.FAILED
    torch.testing.assert_close(again.point, fit.point, rtol=0, atol=0)


def caught(kind: type[Exception], function: Callable[[], Any]) -> Any:
    with pytest.raises(kind) as error:
        function()
    return error.value


def test_a_collapse_keeps_the_last_pass_before_it(tmp_path: Path) -> None:
    """The kept fit is that of a run which ends one pass earlier, to the bit; resumed under a floor it converges."""
    x = np.concatenate([np.zeros((10, 2)), np.random.default_rng(0).normal(size=(20, 2)) + 5])
    model, start = lv.models.GaussianMixture(2), {"loc": [[0.5, 0.5], [5.0, 5.0]], "covariance": [9 * np.eye(2)] * 2}
    error = caught(NumericalError, lambda: lv.fit(model, x, lv.EM(variance_floor=0), start=start))
    passes = len(error.fit.history)
    assert passes > 1 and "error.fit" in error.__notes__[0]
    check_usable(error.fit, tmp_path)
    shorter = lv.fit(model, x, lv.EM(passes=passes, variance_floor=0, stop=lv.Never()), start=start)
    torch.testing.assert_close(error.fit.point, shorter.point, rtol=0, atol=0)
    whole = lv.fit(model, x, lv.EM(), start=error.fit.point)
    assert whole.status.converged


def test_a_fall_of_the_objective_keeps_the_higher_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from latentvars.inference.em import em

    right, calls = em._maximised, []

    def wrong(state: Any, total: Any) -> Any:
        calls.append(state.updates)
        values = right(state, total)
        return values | {"scale": values["scale"] * 3} if len(calls) == 4 else values

    monkeypatch.setattr(em, "_maximised", wrong)
    model, x = lv.models.GaussianMixture(2, 2, "diag"), cases.blobs(3)
    error = caught(NumericalError, lambda: lv.fit(model, x))
    monkeypatch.undo()
    before = lv.fit(model, x, lv.EM(passes=3))
    torch.testing.assert_close(error.fit.point, before.point, rtol=0, atol=0)
    check_usable(error.fit, tmp_path)
    on = lv.fit(model, x, resume=error.fit)
    assert on.status.converged and on.log_likelihood == pytest.approx(lv.fit(model, x).log_likelihood, abs=1e-6)


class Cusp:
    """Its density is finite at zero, its derivative with respect to the depth is not."""

    def model(self, rows: lv.Batch) -> None:
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        depth = pyro.sample("depth", dist.Normal(0.0, 1.0))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(level + depth.abs().sqrt() + z, 1.0), obs=rows.x)


def test_an_m_step_without_derivatives_names_its_global(tmp_path: Path) -> None:
    start = {"level": 0.0, "depth": 0.0}
    error = caught(NumericalError, lambda: lv.fit(Cusp(), cases.line(3), start=start))
    assert "['depth']" in error.given and "L-BFGS" in error.given and "start=" in error.remedy
    assert len(error.fit.history) == 0 and float(error.fit.point["depth"]) == 0.0
    check_usable(error.fit, tmp_path, Cusp())


class WrongSlope(torch.autograd.Function):
    """The identity with the opposite derivative."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return -gradients[0]


class Contrary:
    """A mixture with a location whose derivative points the wrong way."""

    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 5.0))
        turned: Any = WrongSlope.apply(loc)
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(turned + 3.0 * z, 1.0), obs=rows.x)


def test_an_m_step_whose_curvature_fails_is_no_convergence(tmp_path: Path) -> None:
    """Every step against the reported slope leads down: standing still would look like an optimum."""
    error = caught(NumericalError, lambda: lv.fit(Contrary(), cases.line(3), start={"loc": -6.0}))
    assert "no step up" in error.given and "['loc']" in error.given and "gradcheck" in error.remedy
    check_usable(error.fit, tmp_path, Contrary())


@pytest.mark.parametrize("guide", [lv.Delta(), lv.MeanField()], ids=["point", "mean-field"])
def test_a_gradient_run_that_diverges_keeps_finite_weights(guide: Any, tmp_path: Path) -> None:
    """The parameters are changed in place, so copies are kept; the optimiser of the resumed run begins anew."""

    @dataclass(frozen=True)
    class Spoiled(lv.SVI):
        at: int = 4
        broken: list[int] = field(default_factory=list)

        def update(self, state: Any, total: Any) -> Any:
            state = super().update(state, total)
            if state.updates == self.at and not self.broken:
                self.broken.append(1)
                with torch.no_grad():
                    for parameter in state.parameters.values():
                        parameter.fill_(torch.nan)
            return state

    model, x = user_models.ExplicitMixture(), cases.line(21)
    spoiled = Spoiled(passes=8, guide=guide)
    error = caught(NumericalError, lambda: lv.fit(model, x, spoiled))
    assert "pass 5" in error.given and len(error.fit.history) == 3
    sound = lv.fit(model, x, lv.SVI(passes=3, guide=guide))
    torch.testing.assert_close(error.fit.point, sound.point, rtol=0, atol=0)
    resumed = lv.fit(model, x, spoiled, resume=error.fit)
    assert len(resumed.history) == 8 and np.isfinite(resumed.history).all()


def test_networks_are_put_back_too() -> None:
    @dataclass(frozen=True)
    class Spoiled(lv.SVI):
        def update(self, state: Any, total: Any) -> Any:
            state = super().update(state, total)
            if state.updates == 3:
                raise RuntimeError("out of memory")
            return state

    case = cases.CASES["vae-gaussian"]
    error = caught(RuntimeError, lambda: lv.fit(case.model(), case.data(), Spoiled(passes=5)))
    sound = lv.fit(case.model(), case.data(), lv.SVI(passes=2))
    assert isinstance(error.fit, lv.Fit) and len(error.fit.history) == 2
    own, other = (dict(fit.model.decoder.named_parameters()) for fit in (error.fit, sound))
    torch.testing.assert_close(own, other, rtol=0, atol=0)
    assert not error.fit.model.decoder.training


def test_starts_that_all_fail_keep_a_fit_too(tmp_path: Path) -> None:
    error = caught(NumericalError, lambda: lv.fit(Contrary(), cases.line(3), lv.EM(restarts=2), start={"loc": -6.0}))
    check_usable(error.fit, tmp_path, Contrary())


class OpenEnded:
    """A local with infinitely many values."""

    def model(self, rows: lv.Batch) -> None:
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with rows.plate():
            n = pyro.sample("n", dist.Poisson(rate))
            pyro.sample("x", dist.Normal(n, 1.0), obs=rows.x)


def ordered_mixture() -> Any:

    class Ordered:
        def model(self, rows: lv.Batch) -> None:
            loc = pyro.sample("loc", lv.flat((2,), constraints.ordered_vector))
            with rows.plate():
                z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
                pyro.sample("x", dist.Normal(loc[z], 1.0), obs=rows.x)

    return Ordered()


def labelled(label: int) -> lv.Rows:
    codes = np.full(24, -1)
    codes[5] = label
    return lv.Rows(cases.line(21), known={"z": codes})


X = cases.line(21)
REFUSED: dict[str, tuple[Callable[[lv.Fit], Any], type[Exception], tuple[str, ...]]] = {
    "a batch larger than the data": (
        lambda fit: lv.fit(fit.model, X, lv.OnlineEM(batch_size=25), start=fit.point),
        SettingError,
        ("batch_size=25", "24 rows", "lower batch_size"),
    ),
    "a label outside the range": (
        lambda fit: lv.fit(fit.model, labelled(2), start=fit.point),
        DataError,
        ("'z'", "5", "2"),
    ),
    "an infeasible order": (
        lambda fit: lv.fit(ordered_mixture(), X, start={"loc": [1.0, -1.0]}),
        ModelError,
        ("'loc'", "1.0, -1.0", "Ordered", "start="),
    ),
    "an order that fixed values contradict": (
        lambda fit: lv.fit(ordered_mixture(), X, fixed={"loc": [1.0, -1.0]}),
        SettingError,
        ("'loc'", "Ordered"),
    ),
    "a local that cannot be enumerated": (
        lambda fit: lv.fit(OpenEnded(), X, resume=None),
        SupportError,
        ("'n'", "Poisson", "Categorical"),
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_refused_before_the_run_leaves_the_earlier_fit_alone(name: str) -> None:
    call, kind, words = REFUSED[name]
    fit = lv.fit(user_models.ExplicitMixture(), X, lv.EM(passes=5))
    point, history = {key: value.clone() for key, value in fit.point.items()}, fit.history.copy()
    error = caught(kind, lambda: call(fit))
    assert all(word in str(error) for word in words), str(error)
    assert error.remedy and error.fit is None
    torch.testing.assert_close(fit.point, point, rtol=0, atol=0)
    assert (fit.history == history).all() and bool(fit.score_rows().isfinite().all())
    assert len(lv.fit(fit.model, X, lv.EM(passes=8), resume=fit).history) == 8
