"""Families of counts and categories, and positive values with a rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from pyro.distributions import (
    Bernoulli,  # pyright: ignore[reportAttributeAccessIssue]
    Beta,
    Binomial,
    Categorical,
    Dirichlet,
    Exponential,  # pyright: ignore[reportAttributeAccessIssue]
    Gamma,
    Multinomial,
    OneHotCategorical,
    Poisson,
    TorchDistribution,
    constraints,
)
from torch import Size, Tensor
from torch.distributions.constraints import Constraint

from latentvars.contract import Factor
from latentvars.distributions.soft_categorical import SoftCategorical
from latentvars.distributions.stick_breaking import StickBreaking
from latentvars.families.base import Arguments, Family, MStep, Reference, Statistics
from latentvars.families.leaves import weighted_sum

NO_REFERENCE = Reference(torch.zeros(()), None)


class CategoricalFamily(Family):
    """Categorical, one-hot, multinomial and soft counts: statistics are expected counts of the categories."""

    events: Mapping[str, int] = {"probs": 1}
    conjugate: Mapping[str, tuple[type, ...]] = {"probs": (Dirichlet, StickBreaking)}
    natural: Mapping[str, Constraint] = {"probs": constraints.simplex}

    def reference(self, factor: Factor, target: Size, floor: float) -> Reference:
        return NO_REFERENCE

    def statistics(self, factor: Factor, target: Size, reference: Reference) -> Statistics:
        value, probs = factor.value, factor.fn.probs  # type: ignore[attr-defined]
        if isinstance(factor.fn, Categorical):
            value = value.long().unsqueeze(-1) == torch.arange(probs.shape[-1], device=probs.device)
        return {"counts": weighted_sum(factor.weights, value.to(probs.dtype), target, 1)}

    def log_likelihood(self, arguments: Arguments, statistics: Statistics, reference: Reference) -> Tensor:
        counts = statistics["counts"]
        least = torch.finfo(counts.dtype).tiny * counts.sum(-1, keepdim=True).clamp(min=1)  # shares below it are zeros
        return torch.special.xlogy(torch.where(counts > least, counts, 0.0), arguments["probs"]).sum()

    def maximise(self, step: MStep, reference: Reference) -> Tensor:
        counts = step.pull(step.statistics["counts"])
        if isinstance(step.prior, StickBreaking):
            blocks = step.prior.expand(step.selection.shape[:-1]).concentration.reshape(-1)
            return StickBreaking(counts.shape[-1], blocks).mode_given(counts).reshape(step.selection.shape)
        if step.prior is not None:
            counts = (counts + step.of_prior("concentration") - 1).clamp(min=0)
        total = counts.sum(-1)
        return step.finish(counts / total[..., None], total)

    def at_floor(self, argument: str, value: Tensor, reference: Reference) -> Tensor:
        return nowhere(value, self.events[argument])


class BernoulliFamily(Family):
    """Bernoulli and binomial: statistics Σw·successes, Σw·trials."""

    events: Mapping[str, int] = {"probs": 0}
    conjugate: Mapping[str, tuple[type, ...]] = {"probs": (Beta,)}
    natural: Mapping[str, Constraint] = {"probs": constraints.unit_interval}

    def reference(self, factor: Factor, target: Size, floor: float) -> Reference:
        return NO_REFERENCE

    def statistics(self, factor: Factor, target: Size, reference: Reference) -> Statistics:
        probs: Tensor = factor.fn.probs  # type: ignore[attr-defined]
        trials = torch.as_tensor(getattr(factor.fn, "total_count", 1), dtype=probs.dtype)
        return {
            "successes": weighted_sum(factor.weights, factor.value.to(probs.dtype), target),
            "trials": weighted_sum(factor.weights, trials, target),
        }

    def log_likelihood(self, arguments: Arguments, statistics: Statistics, reference: Reference) -> Tensor:
        failures = statistics["trials"] - statistics["successes"]
        probs = arguments["probs"]
        return (torch.special.xlogy(statistics["successes"], probs) + torch.special.xlog1py(failures, -probs)).sum()

    def maximise(self, step: MStep, reference: Reference) -> Tensor:
        successes, trials = step.pull(step.statistics["successes"]), step.pull(step.statistics["trials"])
        if step.prior is not None:
            a, b = step.of_prior("concentration1"), step.of_prior("concentration0")
            successes, trials = successes + a - 1, trials + a + b - 2
        return step.finish((successes / trials).clamp(0, 1), trials)

    def at_floor(self, argument: str, value: Tensor, reference: Reference) -> Tensor:
        return nowhere(value, self.events[argument])


@dataclass(frozen=True)
class RateFamily(Family):
    """A rate: statistics are events and exposure, the rate's maximum is their ratio.

    Poisson observes the events of one unit of exposure each; exponential observes the exposure of one event each.
    Terms of the density without the rate are left out of the log-likelihood.
    """

    observes_events: bool
    events: Mapping[str, int] = field(default_factory=lambda: {"rate": 0})
    conjugate: Mapping[str, tuple[type, ...]] = field(default_factory=lambda: {"rate": (Gamma,)})
    natural: Mapping[str, Constraint] = field(default_factory=lambda: {"rate": constraints.positive})

    def reference(self, factor: Factor, target: Size, floor: float) -> Reference:
        return NO_REFERENCE

    def statistics(self, factor: Factor, target: Size, reference: Reference) -> Statistics:
        rate: Tensor = factor.fn.rate  # type: ignore[attr-defined]
        value, one = factor.value.to(rate.dtype), torch.ones((), dtype=rate.dtype)
        events, exposure = (value, one) if self.observes_events else (one, value)
        return {
            "events": weighted_sum(factor.weights, events, target),
            "exposure": weighted_sum(factor.weights, exposure, target),
        }

    def log_likelihood(self, arguments: Arguments, statistics: Statistics, reference: Reference) -> Tensor:
        rate = arguments["rate"]
        return (torch.special.xlogy(statistics["events"], rate) - rate * statistics["exposure"]).sum()

    def maximise(self, step: MStep, reference: Reference) -> Tensor:
        events, exposure = step.pull(step.statistics["events"]), step.pull(step.statistics["exposure"])
        if step.prior is not None:
            events = (events + step.of_prior("concentration") - 1).clamp(min=0)
            exposure = exposure + step.of_prior("rate")
        return step.finish(events / exposure, exposure)

    def at_floor(self, argument: str, value: Tensor, reference: Reference) -> Tensor:
        return nowhere(value, self.events[argument])


def nowhere(value: Tensor, events: int) -> Tensor:
    """False for every element of the batch."""
    return torch.zeros(value.shape[: value.dim() - events], dtype=torch.bool)


def discrete_families() -> dict[type[TorchDistribution], Family]:
    counts, successes = CategoricalFamily(), BernoulliFamily()
    return {
        Categorical: counts,
        OneHotCategorical: counts,
        Multinomial: counts,
        SoftCategorical: counts,
        Bernoulli: successes,
        Binomial: successes,
        Poisson: RateFamily(observes_events=True),
        Exponential: RateFamily(observes_events=False),
    }
