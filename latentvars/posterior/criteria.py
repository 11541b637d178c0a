"""Information criteria, and how certain the discrete locals of the rows are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from latentvars.contract import Factor
from latentvars.errors import SupportError
from latentvars.posterior.latent import has_labels
from latentvars.program import Program
from latentvars.program.scope import surroundings
from latentvars.rows import Batch, Rows


@dataclass(frozen=True)
class Criteria:
    """Numbers by which models of the same rows are compared; smaller is better.

    Attributes:
        log_likelihood: log L, nats.
        parameters: degrees of freedom, df.
        size: n.
    """

    log_likelihood: float
    parameters: int
    size: float

    @property
    def aic(self) -> float:
        """−2 log L + 2 df (Akaike 1974)."""
        return -2 * self.log_likelihood + 2 * self.parameters

    @property
    def bic(self) -> float:
        """−2 log L + df log n (Schwarz 1978)."""
        return -2 * self.log_likelihood + self.parameters * math.log(self.size)

    @property
    def sabic(self) -> float:
        """−2 log L + df log((n + 2) / 24) (Sclove 1987, from Rissanen 1978)."""
        return -2 * self.log_likelihood + self.parameters * math.log((self.size + 2) / 24)

    @property
    def caic(self) -> float:
        """−2 log L + df (log n + 1) (Bozdogan 1987, proposition 2)."""
        return self.bic + self.parameters

    def icl(self, entropy: float) -> float:
        """BIC + 2 entropy, from the classification entropy of the rows, nats (McLachlan & Peel 2000, section 6.10.3).

        It is the approximation of Biernacki, Celeux & Govaert (2000) with posterior probabilities where they have
        the most probable component, whose log posterior probabilities stand there in the place of the entropy.
        """
        return self.bic + 2 * entropy


@dataclass(frozen=True)
class Certainty:
    """How certain the discrete locals of all rows are, given their observations and the globals.

    Attributes:
        entropy: Σ wₙ H(zₙ | xₙ) of all discrete locals of a row together, nats.
        most: what it would be if all their values were equally probable, Σ wₙ log K of each, nats.
    """

    entropy: float
    most: float

    @property
    def normalised(self) -> float:
        """1 − entropy / most (Ramaswamy et al. 1993, eq. 14): 1 where every row is certain, 0 where nothing is known.

        NaN where each local has one value only.
        """
        return 1 - self.entropy / self.most if self.most > 0 else math.nan


def certainty(program: Program, values: Mapping[str, Tensor], rows: Rows, alone: bool = True) -> Certainty:
    """The classification entropy of rows at a point, exact for whole paths of chains and for dependent locals.

    By the chain rule it is Σ wₙ (log p(xₙ) − E[log p(xₙ, zₙ) | xₙ]) over the enumerated locals, and the expected
    entropy of the collapsed ones given them.

    Args:
        program, values, rows: the model, its globals and the data.
        alone: whether these are all rows, none in other processes.

    Raises:
        SupportError: no discrete locals, or continuous ones besides, given which there is no exact posterior; rows in
            other processes.
    """
    if not alone:
        raise SupportError(
            given="a fit of several processes, each of which has rows of its own",
            needed="all rows in one process",
            remedy="save its point, and read lv.from_point(model, data, point) in one process",
        )
    if program.roles.continuous:
        raise SupportError(
            given=f"a model with the continuous locals {list(program.roles.continuous)}",
            needed="discrete locals only, whose posterior is exact",
            remedy="read the entropy of single locals off fit.latent().entropy(name)",
        )
    parts = [
        _of_batch(program, values, batch) for batch in rows.batches(rows.block, shuffle=False, dtype=program.dtype)
    ]
    if any(part is None for part in parts):
        raise SupportError(
            given="a model without discrete locals",
            needed="a component, class or state to be certain of",
            remedy="compare such models by fit.bic or fit.aic",
        )
    found = [part for part in parts if part is not None]
    return Certainty(max(0.0, sum(part.entropy for part in found)), sum(part.most for part in found))


def _of_batch(program: Program, values: Mapping[str, Tensor], batch: Batch) -> Certainty | None:
    """That of one batch, None where there are no discrete locals; below 0 by rounding alone."""
    found = program.expectation(values, batch)
    discrete, most = bool(program.roles.discrete), 0.0
    entropy = float((found.score.rows * batch.weights).sum())
    with torch.no_grad(), surroundings(program.dtype):
        for name, factor in found.factors.items():
            entropy -= _weighted(factor.weights, factor.fn.log_prob(factor.value))
            if name in program.roles.discrete:
                values_of = factor.fn.enumerate_support(expand=False)
                most += math.log(len(values_of)) * float(factor.weights.sum())  # probabilities of one element sum to 1
            belief = _collapsed(factor)
            if belief is not None:
                discrete = True
                entropy += _weighted(factor.weights, belief.entropy())
                most += math.log(_labels(factor)) * _weighted(factor.weights, _elements(belief))
    return Certainty(entropy, most) if discrete else None


def _weighted(weights: Tensor, value: Tensor) -> float:
    """Σ w v, where what has no weight may be infinite."""
    return float((weights * torch.where(weights > 0, value, 0.0)).sum())


def _collapsed(factor: Factor) -> TorchDistribution | None:
    """The belief over the discrete local of a collapsed distribution; None for other factors."""
    fn: Any = factor.fn
    if not hasattr(fn, "posterior"):
        return None
    belief = fn.posterior(factor.value)
    return belief if has_labels(belief) else None


def _labels(factor: Factor) -> int:
    fn: Any = factor.fn
    return fn.labels


def _elements(belief: Any) -> Tensor:
    """How many discrete numbers a value has: the steps of a path, 1 for a component."""
    return belief.marginals.sum((-2, -1)) if hasattr(belief, "viterbi") else torch.ones(belief.batch_shape)
