"""Fused log densities of normal components: against scipy and torch, derivatives, far apart, and to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyro.distributions import MultivariateNormal, Normal, TorchDistribution
from scipy.stats import multivariate_normal, norm

from latentvars.distributions import Mixture
from latentvars.distributions.normal_scores import component_log_prob, scores

F64 = torch.float64
FORMS = ("diagonal", "full", "shared", "scalar")


def parts(form: str, states: int = 3, features: int = 4) -> dict[str, torch.Tensor]:
    noise = torch.Generator().manual_seed(7)
    features = 1 if form == "scalar" else features
    loc = torch.randn(states, features, generator=noise, dtype=F64)
    if form in ("diagonal", "scalar"):
        return {"loc": loc, "scale": torch.rand(states, features, generator=noise, dtype=F64) + 0.2}
    mix = torch.randn(states, features, features, generator=noise, dtype=F64) / 3
    covariance = mix @ mix.mT + torch.eye(features, dtype=F64)
    return {"loc": loc, "covariance_matrix": covariance[0] if form == "shared" else covariance}


def law(form: str, given: dict[str, torch.Tensor]) -> TorchDistribution:
    if form == "scalar":
        return Normal(given["loc"][:, 0], given["scale"][:, 0], validate_args=False)
    if form == "diagonal":
        return Normal(**given, validate_args=False).to_event(1)
    return MultivariateNormal(**given, validate_args=False)


def points(form: str, count: int = 77) -> torch.Tensor:
    noise = torch.Generator().manual_seed(8)
    shape = (count, 1) if form == "scalar" else (count, 1, 4)
    return 2 * torch.randn(*shape, generator=noise, dtype=F64)


@pytest.mark.parametrize("form", FORMS)
def test_scores_equal_scipy(form: str) -> None:
    given, x = parts(form), points(form)
    found = component_log_prob(law(form, given), x)
    for k in range(3):
        if form == "scalar":
            expected = norm.logpdf(x[:, 0], given["loc"][k, 0], given["scale"][k, 0])
        else:
            full = given.get("covariance_matrix", torch.diag_embed(given.get("scale", torch.ones(3, 4)) ** 2))
            expected = multivariate_normal(given["loc"][k], full if full.dim() == 2 else full[k]).logpdf(x[:, 0])
        np.testing.assert_allclose(found[:, k], expected, rtol=1e-13)


@pytest.mark.parametrize("form", FORMS)
def test_first_and_second_derivatives_equal_those_of_the_distribution(form: str) -> None:
    given = parts(form)
    names, x = list(given), points(form, 20)

    def total(fused: bool):
        def run(*values: torch.Tensor) -> torch.Tensor:
            own = law(form, dict(zip(names, values, strict=True)))
            log_prob = component_log_prob(own, x) if fused else own.log_prob(x)
            return (log_prob * log_prob.detach().sigmoid()).logsumexp(-1).sum()

        return run

    values = tuple(value.clone().requires_grad_() for value in given.values())
    ours = torch.autograd.grad(total(True)(*values), values)
    theirs = torch.autograd.grad(total(False)(*values), values)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)
    ours = torch.autograd.functional.hessian(total(True), values)
    theirs = torch.autograd.functional.hessian(total(False), values)
    for row, other_row in zip(ours, theirs, strict=True):
        for one, other in zip(row, other_row, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", ["diagonal", "full"])
def test_mapped_over_sets_of_parameters_and_over_points(form: str) -> None:
    given, x = parts(form), points(form)
    several = {name: torch.stack([value, 1.5 * value, 0.7 * value]) for name, value in given.items()}

    def run(values: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return component_log_prob(law(form, values), x)

    with torch.no_grad():
        found = torch.vmap(run, in_dims=(0, None))(several, x)
        own = torch.vmap(run)(several, torch.stack([x, x + 1, x - 1]))
        for k, shift in enumerate((0, 1, -1)):
            values = {name: value[k] for name, value in several.items()}
            np.testing.assert_allclose(found[k], law(form, values).log_prob(x), rtol=1e-12)
            np.testing.assert_allclose(own[k], law(form, values).log_prob(x + shift), rtol=1e-12)


def test_gradients_of_a_mapped_function() -> None:
    given, x = parts("full"), points("full")

    def slope(loc: torch.Tensor) -> torch.Tensor:
        def total(loc: torch.Tensor) -> torch.Tensor:
            return component_log_prob(law("full", {**given, "loc": loc}), x).logsumexp(-1).sum()

        return torch.func.grad(total)(loc)

    several = torch.stack([given["loc"], given["loc"] + 0.3])
    found = torch.vmap(slope)(several)
    for k in range(2):
        np.testing.assert_allclose(found[k], slope(several[k]), rtol=1e-12)


def test_components_a_billion_standard_deviations_apart_keep_their_digits() -> None:
    loc = torch.tensor([[0.0, 0.0], [1e9, -1e9]], dtype=F64)
    noise = torch.randn(10, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    x = (loc[1] + noise).unsqueeze(-2)
    found = component_log_prob(Normal(loc, torch.ones(2, 2, dtype=F64)).to_event(1), x)
    np.testing.assert_allclose(found[:, 1], norm.logpdf(x[:, 0] - loc[1]).sum(-1), rtol=1e-14)


def test_a_point_scores_the_same_bits_in_any_company() -> None:
    given, x = parts("full"), points("full")
    own = law("full", given)
    whole = component_log_prob(own, x)
    assert torch.equal(torch.cat([component_log_prob(own, x[n : n + 1]) for n in range(len(x))]), whole)


def test_points_that_are_not_finite_are_refused_as_by_the_distribution() -> None:
    own = Normal(torch.zeros(2, 1, dtype=F64), torch.ones(2, 1, dtype=F64), validate_args=True).to_event(1)
    with pytest.raises(ValueError, match="support"):
        Mixture(torch.tensor([0.5, 0.5], dtype=F64), own).log_prob(torch.tensor([[float("nan")]], dtype=F64))


def test_the_operators_keep_the_rules_of_torch() -> None:
    given, x = parts("diagonal"), points("diagonal", 9)[:, 0]
    sample = (x, given["loc"].requires_grad_(), given["scale"].reciprocal().requires_grad_())
    torch.library.opcheck(scores.operator, sample)
