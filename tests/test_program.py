"""The score, the E-step, draws and the space of the globals, against sums written by hand and Pyro's own ELBO."""

from __future__ import annotations

import itertools
from typing import Any

import cases
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import user_models
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer import config_enumerate as enumerated
from torch import Tensor
from torch.distributions import constraints

import latentvars as lv
from latentvars.program import GlobalSpace, Program
from latentvars.program.elimination import Term, eliminate
from latentvars.program.scope import surroundings

# --- models that only this file needs --------------------------------------------------------------------------------


class Items:
    """A class for each row, and a component for each of three items of the row, in a plate inside the rows."""

    def model(self, rows: lv.Batch) -> None:
        classes = pyro.sample("classes", dist.Dirichlet(torch.ones(2)))
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2, 3)).to_event(1))
        loc = pyro.sample("loc", dist.Normal(0.0, 3.0).expand([3]).to_event(1))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(classes))
            pyro.sample("level", dist.Normal(z.to(loc.dtype), 1.0), obs=rows["level"])
            with pyro.plate("items", 3, dim=-2):
                w = pyro.sample("w", dist.Categorical(weights[z]))
                pyro.sample("x", dist.Normal(loc[w], 1.0), obs=rows["x"].mT)


class Witnesses:
    """A component seen by many independent witnesses."""

    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", lv.flat((2,)))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
            for k in range(rows.x.shape[1]):
                pyro.sample(f"x_{k}", dist.Normal(loc[z], 0.01), obs=rows.x[:, k])


class Masked:
    """A mixture of which only the rows with ``seen`` count."""

    def __init__(self, inside: bool) -> None:
        self.inside = inside

    def model(self, rows: lv.Batch) -> None:
        weights = pyro.sample("weights", lv.flat((2,), constraints.simplex))
        loc = pyro.sample("loc", lv.flat((2,)))
        scale = pyro.sample("scale", lv.flat((2,), constraints.positive))
        seen = rows["seen"] > 0
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            law = dist.Normal(loc[z], scale[z])
            if self.inside:
                pyro.sample("x", law.mask(seen), obs=rows["x"])
            else:
                with poutine.mask(mask=seen):
                    pyro.sample("x", law, obs=rows["x"])


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)


MIXTURE = {"weights": tensor([0.3, 0.7]), "loc": tensor([-1.0, 2.0]), "scale": tensor([0.5, 1.5])}
LEVELS = {
    "classes": tensor([0.4, 0.6]),
    "weights": tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]),
    "loc": tensor([[-6.0, -4.0, -2.0], [2.0, 4.0, 6.0]]),
    "scale": tensor([0.8, 3.0]),
}
CHAIN = {
    "initial": tensor([0.25, 0.75]),
    "transition": tensor([[0.9, 0.1], [0.3, 0.7]]),
    "loc": tensor([0.0, 2.0]),
    "scale": tensor([1.0, 0.7]),
}
ITEMS = {
    "classes": tensor([0.4, 0.6]),
    "weights": tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]),
    "loc": tensor([-2.0, 0.0, 3.0]),
}


def items() -> lv.Rows:
    noise = np.random.default_rng(40)
    return lv.Rows({"x": noise.normal(size=(12, 3)) * 2, "level": noise.normal(size=12)})


def program_of(model: Any, data: Any, point: dict[str, Tensor]) -> tuple[Program, lv.Batch]:
    found = lv.from_point(model, data, point)
    return found.program, found.rows.batch(dtype=found.program.dtype)


def normal(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return torch.distributions.Normal(loc, scale).log_prob(x)


def level_joint(x: Tensor) -> Tensor:
    """log p(z1, z2, x), ``[N, 2, 3]``."""
    prior = LEVELS["classes"].log()[:, None] + LEVELS["weights"].log()
    return prior + normal(x[:, None, None], LEVELS["loc"], LEVELS["scale"][:, None])


def path_joint(x: Tensor) -> tuple[list[tuple[int, ...]], Tensor]:
    """All paths, and log p(path, x) ``[N, paths]``."""
    paths = list(itertools.product(range(2), repeat=x.shape[1]))
    columns = []
    for path in paths:
        z = torch.tensor(path)
        prior = CHAIN["initial"].log()[z[0]] + CHAIN["transition"].log()[z[:-1], z[1:]].sum()
        columns.append(prior + normal(x, CHAIN["loc"][z], CHAIN["scale"][z]).sum(-1))
    return paths, torch.stack(columns, -1)


# --- the score -------------------------------------------------------------------------------------------------------


def test_the_score_of_a_mixture_is_the_log_sum_exp_written_by_hand() -> None:
    program, batch = program_of(user_models.ExplicitMixture(), cases.line(21), MIXTURE)
    expected = torch.logsumexp(
        MIXTURE["weights"].log() + normal(batch.x[:, None], MIXTURE["loc"], MIXTURE["scale"]), -1
    )
    score = program.score(MIXTURE, batch)
    torch.testing.assert_close(score.rows, expected, rtol=0, atol=1e-12)
    prior = (
        torch.distributions.Dirichlet(tensor([2.0, 2.0])).log_prob(MIXTURE["weights"])
        + normal(MIXTURE["loc"], tensor(0.0), tensor(5.0)).sum()
        + torch.distributions.Gamma(tensor(2.0), tensor(2.0)).log_prob(MIXTURE["scale"]).sum()
    )
    torch.testing.assert_close(score.prior, prior, rtol=0, atol=1e-12)


def test_the_score_of_two_dependent_locals_is_the_double_sum() -> None:
    program, batch = program_of(user_models.TwoLevels(), cases.six_groups(), LEVELS)
    expected = torch.logsumexp(level_joint(batch.x).flatten(1), -1)
    torch.testing.assert_close(program.score(LEVELS, batch).rows, expected, rtol=0, atol=1e-12)


def test_the_score_of_a_loop_is_the_sum_over_all_paths() -> None:
    program, batch = program_of(user_models.ExplicitChain(), cases.short_chains(), CHAIN)
    expected = torch.logsumexp(path_joint(batch.x)[1], -1)
    torch.testing.assert_close(program.score(CHAIN, batch).rows, expected, rtol=0, atol=1e-12)


def test_the_score_of_a_plate_inside_the_rows_is_a_product_inside_a_sum() -> None:
    program, batch = program_of(Items(), items(), ITEMS)
    item = torch.logsumexp(ITEMS["weights"].log() + normal(batch["x"][..., None, None], ITEMS["loc"], tensor(1.0)), -1)
    level = normal(batch["level"][:, None], tensor([0.0, 1.0]), tensor(1.0))
    expected = torch.logsumexp(ITEMS["classes"].log() + level + item.sum(1), -1)
    torch.testing.assert_close(program.score(ITEMS, batch).rows, expected, rtol=0, atol=1e-12)


ELBO_CASES = {
    "mixture": (user_models.ExplicitMixture, lambda: lv.Rows(cases.line(21)), MIXTURE),
    "two levels": (user_models.TwoLevels, lambda: lv.Rows(cases.six_groups()), LEVELS),
    "inner plate": (Items, items, ITEMS),
    "markov": (user_models.ExplicitChain, lambda: lv.Rows(cases.short_chains()), CHAIN),
}


@pytest.mark.parametrize("name", list(ELBO_CASES))
def test_the_score_equals_pyros_enumerated_elbo(name: str) -> None:
    model, data, point = ELBO_CASES[name]
    program, batch = program_of(model(), data(), point)
    conditioned = enumerated(poutine.condition(model().model, data=point))
    with surroundings(torch.float64):
        elbo = -TraceEnum_ELBO(max_plate_nesting=2).loss(conditioned, lambda rows: None, batch)
    score = program.score(point, batch)
    assert float(score.prior + score.rows.sum()) == pytest.approx(elbo, rel=1e-12)


def test_part_of_the_rows_scores_without_the_scale_of_a_minibatch() -> None:
    program, batch = program_of(user_models.ExplicitMixture(), cases.line(21), MIXTURE)
    whole = program.score(MIXTURE, batch).rows
    torch.testing.assert_close(program.score(MIXTURE, batch.select([3, 9])).rows, whole[[3, 9]], rtol=0, atol=1e-13)


def test_evidence_that_contradicts_itself_by_thousands_of_nats_does_not_underflow() -> None:
    x = np.array([[0.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    point = {"loc": tensor([0.0, 1.0])}
    program, batch = program_of(Witnesses(), x, point)
    joint = tensor([0.3, 0.7]).log() + normal(batch.x[..., None], point["loc"], tensor(0.01)).sum(1)
    rows = program.score(point, batch).rows
    assert float(joint.min()) < -10_000
    torch.testing.assert_close(rows, torch.logsumexp(joint, -1), rtol=1e-13, atol=0)
    torch.testing.assert_close(program.beliefs(point, batch)["z"].probs, joint.softmax(-1), rtol=0, atol=1e-12)


def test_a_factor_that_is_constant_along_a_plate_counts_once_for_each_of_its_elements() -> None:
    noise = torch.Generator().manual_seed(3)
    first, second, third = (torch.randn(s, generator=noise, dtype=torch.float64) for s in ((2,), (2, 3), (5, 4, 3)))
    constant = tensor(0.7)
    both = frozenset("rp")
    terms = [
        Term(first, "a", frozenset("r")),
        Term(second, "ab", both),
        Term(third, "rpb", both),
        Term(constant, "", both),
    ]
    found = eliminate(terms, {"a": frozenset("r"), "b": both}, {"r": 5, "p": 4}, "r")
    inner = torch.logsumexp(second[None, None] + third[:, :, None], -1).sum(1)  # [r, a]
    torch.testing.assert_close(found, torch.logsumexp(first + inner, -1) + 4 * constant, rtol=0, atol=1e-12)
    only = eliminate([Term(first, "a", frozenset("r"))], {"a": frozenset("r")}, {"r": 5}, "r")
    torch.testing.assert_close(only, torch.logsumexp(first, 0).expand(5), rtol=0, atol=1e-12)


# --- the E-step ------------------------------------------------------------------------------------------------------


def test_posterior_weights_of_every_factor_equal_brute_force() -> None:
    rows = cases.with_weights(lv.Rows(cases.six_groups()), np.linspace(0.0, 2.0, 48))
    program, batch = program_of(user_models.TwoLevels(), rows, LEVELS)
    joint = level_joint(batch.x)
    exact = joint.flatten(1).softmax(-1).reshape(joint.shape) * batch.weights[:, None, None]
    factors = program.expectation(LEVELS, batch).factors
    by_hand = exact.permute(2, 1, 0)  # the second local is enumerated left of the first
    torch.testing.assert_close(factors["z1"].weights.squeeze(), by_hand.sum(0), rtol=0, atol=1e-12)
    for name in ("z2", "x"):
        torch.testing.assert_close(factors[name].weights.squeeze(), by_hand, rtol=0, atol=1e-12)


def test_posterior_weights_of_a_loop_equal_brute_force() -> None:
    program, batch = program_of(user_models.ExplicitChain(), cases.short_chains(), CHAIN)
    paths, joint = path_joint(batch.x)
    posterior = joint.softmax(-1)
    factors = program.expectation(CHAIN, batch).factors
    beliefs = program.beliefs(CHAIN, batch)
    for t in range(batch.x.shape[1]):
        single = torch.stack([posterior[:, [p[t] == k for p in paths]].sum(-1) for k in range(2)], -1)
        torch.testing.assert_close(beliefs[f"z_{t}"].probs, single, rtol=0, atol=1e-12)
        torch.testing.assert_close(factors[f"x_{t}"].weights.reshape(2, -1).mT, single, rtol=0, atol=1e-12)
    for a, b in itertools.product(range(2), repeat=2):
        pair = posterior[:, [p[0] == a and p[1] == b for p in paths]].sum(-1)
        torch.testing.assert_close(factors["z_1"].weights[b, a], pair, rtol=0, atol=1e-12)


def test_beliefs_inside_a_plate_inside_the_rows_equal_brute_force() -> None:
    program, batch = program_of(Items(), items(), ITEMS)
    beliefs = program.beliefs(ITEMS, batch)
    item = ITEMS["weights"].log() + normal(batch["x"][..., None, None], ITEMS["loc"], tensor(1.0))  # [N, item, z, w]
    level = ITEMS["classes"].log() + normal(batch["level"][:, None], tensor([0.0, 1.0]), tensor(1.0))
    z = (level + torch.logsumexp(item, -1).sum(1)).softmax(-1)
    torch.testing.assert_close(beliefs["z"].probs, z, rtol=0, atol=1e-12)
    w = (z[:, None, :, None] * item.softmax(-1)).sum(2)
    torch.testing.assert_close(beliefs["w"].probs, w, rtol=0, atol=1e-12)


@pytest.mark.parametrize("inside", [True, False], ids=["distribution", "handler"])
def test_what_is_masked_counts_neither_in_the_score_nor_in_the_m_step(inside: bool) -> None:
    x = cases.line(22)
    seen = (np.arange(len(x)) >= 6).astype(float)
    wild = np.where(seen > 0, x, 50.0)
    em = lv.EM(passes=5, stop=lv.Never())
    ours, theirs = (lv.fit(Masked(inside), {"x": v, "seen": seen}, em, start=MIXTURE) for v in (wild, x))
    for name, value in theirs.point.items():
        torch.testing.assert_close(ours.point[name], value, rtol=1e-9, atol=0)
    rest = lv.fit(Masked(inside), {"x": x[6:], "seen": seen[6:]}, em, start=MIXTURE)
    assert ours.history[0] * len(x) == pytest.approx(rest.history[0] * (len(x) - 6), rel=1e-12)
    first = lv.EM(passes=1)
    ours, rest = (
        lv.fit(Masked(inside), {"x": v, "seen": s}, first, start=MIXTURE) for v, s in ((wild, seen), (x[6:], seen[6:]))
    )
    torch.testing.assert_close(ours.point["loc"], rest.point["loc"], rtol=1e-9, atol=0)


# --- draws -----------------------------------------------------------------------------------------------------------

DRAWS = 4_000


def repeated(model: Any, data: Any, point: dict[str, Tensor], row: int) -> tuple[Program, lv.Batch]:
    """One row, many times."""
    found = lv.from_point(model, data, point)
    return found.program, found.rows.subset([row] * DRAWS).batch(dtype=found.program.dtype)


def assert_frequencies(counts: Tensor, probs: Tensor) -> None:
    """Within four and a half standard errors."""
    error = (probs * (1 - probs) / DRAWS).sqrt() + 1e-9
    assert float(((counts / DRAWS - probs) / error).abs().max()) < 4.5


def test_joint_draws_of_dependent_locals_follow_their_joint_posterior() -> None:
    program, batch = repeated(user_models.TwoLevels(), cases.six_groups(), LEVELS, 2)
    drawn = program.joint_draw(LEVELS, batch, 3)
    exact = level_joint(batch.x[:1]).flatten().softmax(-1)
    assert float(exact.max()) < 0.9
    assert_frequencies(torch.bincount(drawn["z1"] * 3 + drawn["z2"], minlength=6), exact)


def test_joint_draws_of_a_loop_follow_the_posterior_of_whole_paths() -> None:
    program, batch = repeated(user_models.ExplicitChain(), cases.short_chains(), CHAIN, 1)
    drawn = program.joint_draw(CHAIN, batch, 5)
    code = sum(drawn[f"z_{t}"] * 2 ** (4 - t) for t in range(5))
    paths, joint = path_joint(batch.x[:1])
    exact = joint[0].softmax(-1)
    assert paths[5] == (0, 0, 1, 0, 1)
    assert_frequencies(torch.bincount(torch.as_tensor(code), minlength=32), exact)


def test_predictions_have_the_moments_of_the_model() -> None:
    program, batch = repeated(user_models.ExplicitMixture(), cases.line(21), MIXTURE, 0)
    x = program.predict(MIXTURE, batch, 1)["x"]
    mean = (MIXTURE["weights"] * MIXTURE["loc"]).sum()
    variance = (MIXTURE["weights"] * (MIXTURE["scale"] ** 2 + MIXTURE["loc"] ** 2)).sum() - mean**2
    assert abs(float(x.mean() - mean)) < 4.5 * float((variance / DRAWS).sqrt())
    assert float(x.var() / variance) == pytest.approx(1.0, abs=0.1)
    point = {"intercept": tensor(1.0), "slope": tensor(-2.0), "sigma": tensor(0.1)}
    program, batch = repeated(user_models.Regression(), cases.trend(), point, 25)
    y = program.predict(point, batch, 1)["y"]
    expected = 1.0 - 2.0 * float(batch["t"][0])
    assert float(y.mean()) == pytest.approx(expected, abs=0.01)
    assert not torch.equal(y, program.predict(point, batch, 2)["y"])
    assert torch.equal(y, program.predict(point, batch, 1)["y"])


# --- the space of the globals ----------------------------------------------------------------------------------------

SUPPORTS: dict[str, tuple[constraints.Constraint, tuple[int, ...], int]] = {
    "real": (constraints.real, (2, 3), 6),
    "positive": (constraints.positive, (3,), 3),
    "interval": (constraints.interval(-1.0, 2.0), (2,), 2),
    "simplexes": (constraints.simplex, (2, 3), 4),
    "covariances": (constraints.positive_definite, (2, 3, 3), 12),
    "factors": (constraints.lower_cholesky, (3, 3), 6),
}


def coordinates(name: str, value: Tensor) -> Tensor:
    """As many entries of a value as it has degrees of freedom, in which densities are stated."""
    if name == "simplexes":
        return value[..., :-1].flatten()
    if name in ("covariances", "factors"):
        rows, columns = torch.tril_indices(3, 3)
        return value[..., rows, columns].flatten()
    return value.flatten()


@pytest.mark.parametrize("name", list(SUPPORTS))
def test_constrained_values_return_and_the_jacobian_is_that_of_autograd(name: str) -> None:
    support, shape, size = SUPPORTS[name]
    space = GlobalSpace.of({"a": lv.flat(shape, support).sample().double()}, {"a": lv.flat(shape, support).support})
    assert space.size == size
    free = torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values, log_jacobian = space.constrain(free)
    assert values["a"].shape == shape
    assert bool(support.check(values["a"]).all())
    torch.testing.assert_close(space.unconstrain(values), free, rtol=0, atol=1e-9)
    jacobian = torch.autograd.functional.jacobian(lambda f: coordinates(name, space.constrain(f)[0]["a"]), free)
    torch.testing.assert_close(log_jacobian, torch.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-9)


def test_globals_keep_their_places_in_a_batch_of_points() -> None:
    names = [name for name in SUPPORTS if name != "factors"]
    values = {name: lv.flat(SUPPORTS[name][1], SUPPORTS[name][0]).sample().double() for name in names}
    supports = {name: lv.flat(SUPPORTS[name][1], SUPPORTS[name][0]).support for name in names}
    space = GlobalSpace.of(values, supports)
    assert space.names == tuple(names)
    free = torch.randn(4, space.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    together, log_jacobian = space.constrain(free)
    torch.testing.assert_close(space.unconstrain(together), free, rtol=0, atol=1e-9)
    for k in range(4):
        alone, own = space.constrain(free[k])
        torch.testing.assert_close(log_jacobian[k], own, rtol=0, atol=1e-10)
        for name in names:
            torch.testing.assert_close(together[name][k], alone[name], rtol=0, atol=1e-12)
    part = space.subset(("simplexes", "real"))
    assert part.names == ("real", "simplexes") and part.size == 10
