"""HiddenMarkov: against enumeration, hmmlearn, Pyro, published numbers, and itself under padding and plates."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from chain_brute_force import enumerate_paths
from hmmlearn import hmm
from pyro import poutine

from latentvars.contract import Collapsed
from latentvars.distributions import HiddenMarkov, Mixture, Product
from latentvars.errors import ShapeError

F64 = torch.float64
INITIAL = torch.tensor([0.6, 0.3, 0.1], dtype=F64)
TRANSITION = torch.tensor([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.3, 0.3, 0.4]], dtype=F64)


def gaussian() -> dist.TorchDistribution:
    generator = torch.Generator().manual_seed(1)
    factor = torch.randn(3, 2, 2, generator=generator, dtype=F64)
    loc = 2 * torch.randn(3, 2, generator=generator, dtype=F64)
    return dist.MultivariateNormal(loc, factor @ factor.mT + 0.5 * torch.eye(2, dtype=F64))


def poisson() -> dist.TorchDistribution:
    return dist.Poisson(torch.tensor([3.0, 9.0, 20.0], dtype=F64))


def categorical() -> dist.TorchDistribution:
    return dist.Categorical(torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2]], dtype=F64))


def mixture() -> dist.TorchDistribution:
    weights = torch.tensor([[0.3, 0.7], [0.5, 0.5], [0.9, 0.1]], dtype=F64)
    return Mixture(weights, dist.Normal(torch.arange(6, dtype=F64).reshape(3, 2), 1.0), local="part")


def product() -> dist.TorchDistribution:
    return Product([gaussian(), poisson()])


def per_sequence() -> dist.TorchDistribution:
    """Every one of four sequences has emissions of its own."""
    return dist.Normal(torch.linspace(-2, 2, 12, dtype=F64).reshape(4, 3), 1.0)


EMISSIONS = [gaussian, poisson, categorical, mixture, product, per_sequence]


@pytest.mark.parametrize("emission", EMISSIONS)
def test_log_prob_and_marginals_equal_enumeration(emission: object) -> None:
    torch.manual_seed(0)
    fn, lengths = emission(), torch.tensor([5, 1, 3, 2])
    chain = HiddenMarkov(INITIAL, TRANSITION, fn, lengths)
    x = chain.expand([4]).sample()
    belief, total = chain.posterior(x), chain.log_prob(x)
    assert x.shape == (4, 5, *fn.event_shape) and total.shape == (4,)
    by_row = fn.expand([4, 3])
    for row, length in enumerate(lengths.tolist()):
        likelihood = np.stack([by_row.log_prob(x[:, t].unsqueeze(1))[row].exp().numpy() for t in range(length)])
        exact = enumerate_paths(INITIAL.numpy(), TRANSITION.numpy(), likelihood)
        assert float(total[row]) == pytest.approx(np.log(exact.evidence), 1e-11)
        np.testing.assert_allclose(belief.marginals[row, :length], exact.marginals, atol=1e-12)
        assert belief.mode[row].tolist() == [*exact.best.tolist(), *[-1] * (5 - length)]
        assert float(belief.entropy()[row]) == pytest.approx(exact.entropy, abs=1e-11)


def as_hmmlearn(kind: str) -> tuple[HiddenMarkov, object]:
    """The same model here and in hmmlearn."""
    if kind == "gaussian":
        fn = gaussian()
        other = hmm.GaussianHMM(3, "full", init_params="", params="t", n_iter=1, covars_prior=0)
        other.means_, other.covars_ = fn.loc.numpy(), fn.covariance_matrix.numpy()
    elif kind == "poisson":
        fn = poisson()
        other = hmm.PoissonHMM(3, init_params="", params="t", n_iter=1)
        other.lambdas_ = fn.rate.numpy()[:, None]
    else:
        fn = categorical()
        other = hmm.CategoricalHMM(3, init_params="", params="t", n_iter=1)
        other.emissionprob_ = fn.probs.numpy()
    other.startprob_, other.transmat_ = INITIAL.numpy(), TRANSITION.numpy()
    return HiddenMarkov(INITIAL, TRANSITION, fn, torch.tensor([40, 25])), other


@pytest.mark.parametrize("kind", ["gaussian", "poisson", "categorical"])
def test_equals_hmmlearn(kind: str) -> None:
    torch.manual_seed(1)
    chain, other = as_hmmlearn(kind)
    x = chain.sample()
    rows = torch.cat([x[0], x[1, :25]]).numpy().reshape(65, -1)
    rows = rows if kind == "gaussian" else rows.astype(int)
    belief = chain.posterior(x)
    smoothed = torch.cat([belief.marginals[0], belief.marginals[1, :25]])
    assert float(chain.log_prob(x).sum()) == pytest.approx(other.score(rows, [40, 25]), 1e-12)
    np.testing.assert_allclose(smoothed, other.predict_proba(rows, [40, 25]), atol=1e-10)
    path, joint = belief.viterbi()
    log_joint, states = other.decode(rows, [40, 25])
    assert float(joint.sum()) == pytest.approx(log_joint, 1e-12)
    if kind != "categorical":  # there paths tie
        assert torch.cat([path[0], path[1, :25]]).tolist() == states.tolist()
    moves = chain.factors(x, torch.ones(2, dtype=F64))["transition"].value.sum(0)
    other.fit(rows, [40, 25])
    np.testing.assert_allclose(moves / moves.sum(-1, keepdim=True), other.transmat_, atol=1e-10)


def test_umbrella_example() -> None:
    transition = torch.tensor([[0.7, 0.3], [0.3, 0.7]], dtype=F64)
    emission = dist.Bernoulli(torch.tensor([0.9, 0.2], dtype=F64))
    chain = HiddenMarkov(torch.tensor([0.5, 0.5], dtype=F64), transition, emission)
    x = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0], dtype=F64)
    belief = chain.posterior(x)
    path, joint = belief.viterbi()
    assert float(chain.log_prob(x)) == pytest.approx(-3.3725, abs=1e-4)
    assert path.tolist() == [0, 0, 1, 0, 0]
    assert float(joint) == pytest.approx(-4.4590, abs=1e-4)
    assert belief.marginals[:, 0].tolist() == pytest.approx([0.8673, 0.8204, 0.3075, 0.8204, 0.8673], abs=1e-4)


def test_categorical_example() -> None:
    emission = dist.Categorical(torch.tensor([[0.1, 0.4, 0.5], [0.6, 0.3, 0.1]], dtype=F64))
    transition = torch.tensor([[0.7, 0.3], [0.4, 0.6]], dtype=F64)
    belief = HiddenMarkov(torch.tensor([0.6, 0.4], dtype=F64), transition, emission).posterior(torch.tensor([0, 1, 2]))
    path, joint = belief.viterbi()
    assert path.tolist() == [1, 0, 0]
    assert float(joint.exp()) == pytest.approx(0.01344, abs=1e-6)
    assert belief.marginals[:, 0].tolist() == pytest.approx([0.23170303, 0.62406281, 0.86397706], abs=1e-6)


def test_speed_series_at_published_parameters(truth: Path) -> None:
    with (truth / "speed" / "speed.csv").open() as file:
        rows = [(float(row["rt"]), float(row["corr"] == "cor")) for row in csv.DictReader(file)]
    lengths = [168, 134, 137]
    x = torch.zeros(3, 168, 2, dtype=F64)
    for row, series in enumerate(torch.tensor(rows, dtype=F64).split(lengths)):
        x[row, : len(series)] = series
    emission = Product(
        [
            dist.Normal(torch.tensor([5.52, 6.39], dtype=F64), torch.tensor([0.202, 0.24], dtype=F64)),
            dist.Bernoulli(torch.tensor([0.528, 0.902], dtype=F64)),
        ]
    )
    transition = torch.tensor([[0.899, 0.101], [0.084, 0.916]], dtype=F64)
    chain = HiddenMarkov(torch.tensor([0.0, 1.0], dtype=F64), transition, emission, torch.tensor(lengths))
    assert float(chain.log_prob(x).sum()) == pytest.approx(-296.115107102, abs=1e-8)


def test_equals_the_enumerated_pyro_model() -> None:
    loc = torch.tensor([-1.0, 0.5, 2.0], dtype=F64)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=F64)
    chain = HiddenMarkov(INITIAL, TRANSITION, dist.Normal(loc, 1.0))

    def model() -> None:
        with pyro.plate("rows", 4):
            z = None
            for t in pyro.markov(range(6)):
                law = INITIAL if z is None else TRANSITION[z]
                z = pyro.sample(f"z{t}", dist.Categorical(law), infer={"enumerate": "parallel"})
                pyro.sample(f"x{t}", dist.Normal(loc[z], 1.0), obs=x[:, t])

    loss = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1).loss(model, lambda: None)
    assert -loss == pytest.approx(float(chain.log_prob(x).sum()), 1e-12)


def em_bound(fn: object, value: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Σ weighted complete-data log-densities + weighted posterior entropies, through all levels: equals log p(x)."""
    if not hasattr(fn, "factors"):
        return (weights * fn.log_prob(value)).sum()
    total = sum(em_bound(f.fn, f.value, f.weights) for f in fn.factors(value, weights).values())
    if hasattr(fn, "posterior"):
        total = total + (weights * fn.posterior(value).entropy()).sum()
    return total


@pytest.mark.parametrize("emission", EMISSIONS)
def test_factors_and_entropy_sum_to_log_prob(emission: object) -> None:
    torch.manual_seed(2)
    chain = HiddenMarkov(INITIAL, TRANSITION, emission(), torch.tensor([6, 1, 4, 3]))
    x, weights = chain.sample(), torch.rand(4, dtype=F64)
    torch.testing.assert_close(em_bound(chain, x, weights), (weights * chain.log_prob(x)).sum())


@pytest.mark.parametrize("lengths", [None, torch.tensor([5, 2, 1])])
def test_factors_move_the_same_way_as_log_prob(lengths: torch.Tensor | None) -> None:
    """Fisher's identity, for a left-right chain with zeros in the transition matrix and in the initial law."""
    initial = torch.tensor([1.0, 0.0], dtype=F64)
    transition = torch.tensor([[0.7, 0.3], [0.0, 1.0]], dtype=F64)
    loc = torch.tensor([0.0, 2.0], dtype=F64, requires_grad=True)
    logits = torch.tensor([0.4], dtype=F64, requires_grad=True)
    stay = logits.sigmoid()
    transition = torch.stack([torch.cat([stay, 1 - stay]), transition[1]])
    chain = HiddenMarkov(initial, transition, dist.Normal(loc, 1.0), lengths)
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=F64)
    weights = torch.tensor([1.0, 2.0, 0.5], dtype=F64)
    total = sum((f.weights * f.fn.log_prob(f.value)).sum() for f in chain.factors(x, weights).values())
    ours = torch.autograd.grad(total, (loc, logits), retain_graph=True)
    torch.testing.assert_close(ours, torch.autograd.grad((weights * chain.log_prob(x)).sum(), (loc, logits)))


@pytest.mark.parametrize("content", [0.0, 1e9, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("emission", EMISSIONS)
def test_content_of_padding_changes_no_bit(emission: object, content: float) -> None:
    torch.manual_seed(3)
    fn, lengths = emission(), torch.tensor([5, 1, 3, 2])
    transition = TRANSITION.clone().requires_grad_()
    chain = HiddenMarkov(INITIAL, transition, fn, lengths)
    x = chain.sample()
    x = x if x.is_floating_point() else x.double()
    dirty = torch.where((torch.arange(5) < lengths[:, None]).reshape(4, 5, *[1] * len(fn.event_shape)), x, content)
    weights = torch.ones(4, dtype=F64)
    for clean, padded in zip(everything(chain, x, weights), everything(chain, dirty, weights), strict=True):
        assert torch.equal(clean, padded)
    slopes = [torch.autograd.grad(chain.log_prob(value).sum(), transition)[0] for value in (x, dirty)]
    assert torch.equal(*slopes)


@pytest.mark.parametrize("emission", [poisson, categorical, mixture])
def test_amount_of_padding_changes_no_bit(emission: object) -> None:
    torch.manual_seed(4)
    chain = HiddenMarkov(INITIAL, TRANSITION, emission(), torch.tensor([5, 1, 3, 2]))
    x, weights = chain.sample(), torch.ones(4, dtype=F64)
    wide = torch.cat([x, x.new_zeros(4, 90)], 1)
    for plain, padded in zip(everything(chain, x, weights), everything(chain, wide, weights), strict=True):
        cut = padded[:, : plain.shape[1]] if plain.dim() > 1 and padded.shape[1] > plain.shape[1] else padded
        assert torch.equal(plain, cut)


def everything(chain: HiddenMarkov, x: torch.Tensor, weights: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        belief, parts = chain.posterior(x), chain.factors(x, weights)
        path, joint = belief.viterbi()
        return [
            *(chain.log_prob(x), belief.marginals, belief.pairwise, belief.entropy(), path, joint),
            *(chain.filtering(x), chain.predictive(x), *chain.predict_steps(x)),
            *(parts["initial"].value, parts["transition"].value),
        ]


def test_a_sequence_does_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(5)
    lengths = torch.tensor([6, 2, 4])
    together = HiddenMarkov(INITIAL, TRANSITION, poisson(), lengths)
    x = together.sample()
    for row, length in enumerate(lengths.tolist()):
        alone = HiddenMarkov(INITIAL, TRANSITION, poisson())
        torch.testing.assert_close(alone.log_prob(x[row, :length]), together.log_prob(x)[row])


def test_filtering_and_prediction_are_posteriors_of_prefixes() -> None:
    torch.manual_seed(6)
    chain = HiddenMarkov(INITIAL, TRANSITION, gaussian(), steps=5)
    x = chain.sample((2,))
    predicted, step = chain.predict_steps(x)
    torch.testing.assert_close(step.sum(-1), chain.log_prob(x))
    torch.testing.assert_close(predicted[:, 0], INITIAL.expand(2, 3))
    for t in range(1, 6):
        prefix = x[:, :t]
        last = chain.posterior(prefix).marginals[:, -1]
        torch.testing.assert_close(chain.filtering(x)[:, t - 1], last)
        torch.testing.assert_close(chain.predictive(prefix), last @ TRANSITION)
        if t < 5:
            torch.testing.assert_close(predicted[:, t], last @ TRANSITION)
            torch.testing.assert_close(chain.forecast(prefix).log_prob(x[:, t]), step[:, t])


def test_forecast_starts_after_the_last_valid_step() -> None:
    torch.manual_seed(7)
    ragged = HiddenMarkov(INITIAL, TRANSITION, poisson(), torch.tensor([5, 2]))
    x = ragged.sample()
    alone = HiddenMarkov(INITIAL, TRANSITION, poisson()).forecast(x[1, :2])
    torch.testing.assert_close(ragged.forecast(x).weights[1], alone.weights)
    assert ragged.forecast(x).batch_shape == (2,)


def test_samples_follow_the_model() -> None:
    torch.manual_seed(8)
    chain = HiddenMarkov(INITIAL, TRANSITION, poisson(), steps=3)
    path, x = chain.sample_with_path((20_000,))
    onehot = torch.nn.functional.one_hot(path, 3).double()
    law = INITIAL
    for t in range(3):
        assert float((onehot[:, t].mean(0) - law).abs().max()) < 0.015
        law = law @ TRANSITION
    moves = torch.einsum("ni,nj->ij", onehot[:, 1], onehot[:, 2])
    assert float((moves / moves.sum(-1, keepdim=True) - TRANSITION).abs().max()) < 0.04
    for state, rate in enumerate([3.0, 9.0, 20.0]):
        assert float(x[path == state].mean()) == pytest.approx(rate, rel=0.02)


def test_ragged_samples_repeat_the_last_valid_step() -> None:
    chain = HiddenMarkov(INITIAL, TRANSITION, gaussian(), torch.tensor([4, 2]))
    path, x = chain.sample_with_path((3,))
    assert x.shape == (3, 2, 4, 2) and path.shape == (3, 2, 4)
    assert path[:, 1, 2:].unique().tolist() == [-1]
    assert torch.equal(x[:, 1, 2:], x[:, 1, 1:2].expand(3, 2, 2))


@pytest.mark.parametrize("emission", [gaussian, categorical, mixture, product])
def test_expand_and_posterior_shapes(emission: object) -> None:
    fn = emission()
    wide = HiddenMarkov(INITIAL, TRANSITION, fn, steps=4).expand([5, 2])
    x = wide.sample((3,))
    assert x.shape == wide.shape((3,)) == (3, 5, 2, 4, *fn.event_shape)
    assert wide.log_prob(x).shape == (3, 5, 2)
    assert wide.log_prob(x[0, 0, 0]).shape == (5, 2)
    assert wide.posterior(x).sample((6,)).shape == (6, 3, 5, 2, 4)
    assert wide.posterior(x).expand([7, 3, 5, 2]).marginals.shape == (7, 3, 5, 2, 4, 3)
    assert wide.posterior(x).pairwise.shape == (3, 5, 2, 3, 3, 3)
    assert bool(wide.support.check(x).all())
    assert isinstance(wide, Collapsed)


def test_parameters_batched_over_sequences_equal_single_sequences() -> None:
    torch.manual_seed(9)
    initial, transition = torch.rand(4, 3, dtype=F64).softmax(-1), torch.rand(4, 3, 3, dtype=F64).softmax(-1)
    fn, x = per_sequence(), torch.randn(2, 4, 6, dtype=F64)
    together = HiddenMarkov(initial, transition, fn)
    for row in range(4):
        alone = HiddenMarkov(initial[row], transition[row], dist.Normal(fn.loc[row], 1.0))
        torch.testing.assert_close(together.log_prob(x)[:, row], alone.log_prob(x[:, row]))
        torch.testing.assert_close(together.posterior(x).marginals[:, row], alone.posterior(x[:, row]).marginals)


def test_hidden_markov_is_an_ordinary_pyro_site() -> None:
    chain = HiddenMarkov(INITIAL, TRANSITION, poisson(), torch.tensor([5, 2, 3, 1]))
    mask = torch.tensor([True, False, True, True])
    x = chain.sample()

    def model(obs: torch.Tensor | None) -> torch.Tensor:
        with pyro.plate("chains", 3, dim=-2), pyro.plate("rows", 4, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", chain, obs=obs)

    assert model(None).shape == (3, 4, 5)
    with pyro.validation_enabled():
        trace = poutine.trace(model).get_trace(x)
    torch.testing.assert_close(trace.log_prob_sum(), 3 * chain.log_prob(x)[mask].sum())


def test_float32_stays_float32() -> None:
    emission = dist.Normal(torch.tensor([0.0, 1.0, 2.0]), 1.0)
    chain = HiddenMarkov(INITIAL.float(), TRANSITION.float(), emission, torch.tensor([4, 2]))
    for value in everything(chain, chain.sample(), torch.ones(2)):
        assert value.dtype in (torch.float32, torch.int64)


def test_shape_errors_say_what_to_do() -> None:
    with pytest.raises(ShapeError, match="K of initial"):
        HiddenMarkov(INITIAL, TRANSITION[:2], poisson())
    with pytest.raises(ShapeError, match="over the states"):
        HiddenMarkov(INITIAL, TRANSITION, dist.Poisson(torch.tensor([1.0, 2.0])))
    with pytest.raises(ShapeError, match="empty sequences"):
        HiddenMarkov(INITIAL, TRANSITION, poisson(), torch.tensor([3, 0]))
    with pytest.raises(ShapeError, match="pad the value"):
        HiddenMarkov(INITIAL, TRANSITION, poisson(), torch.tensor([3, 2])).log_prob(torch.ones(2, 2, dtype=F64))
    with pytest.raises(ShapeError, match="axis for time"):
        HiddenMarkov(INITIAL, TRANSITION, gaussian()).log_prob(torch.ones(2, dtype=F64))
    with pytest.raises(ShapeError, match="broadcast"):
        HiddenMarkov(INITIAL, TRANSITION, per_sequence(), torch.tensor([3, 2]))
