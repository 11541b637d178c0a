"""The values that cross rooms: what a model is, and what is computed from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from pyro.distributions import TorchDistribution
from torch import Tensor

from latentvars.rows import Batch


@runtime_checkable
class LatentModel(Protocol):
    """Any object with a Pyro ``model``.

    ``model`` declares *globals* as ``pyro.sample`` sites outside the rows plate and *locals* and observations inside
    ``with rows.plate():``. Optional further methods, looked up by name:

    * ``guide(rows)``: Pyro; samples the continuous locals inside ``rows.plate()`` (amortised posterior);
    * ``initial(rows, generator) -> dict[str, Tensor]``: data-driven start for the globals, constrained values;
    * ``grouped_start(rows, grouping, generator) -> dict[str, Tensor]``: the same from any :mod:`latentvars.starts`;
    * ``dims() -> dict[str, tuple[str, ...]]``: names of the axes of sites, for labelled output.
    """

    def model(self, rows: Batch) -> Any: ...


class Score(NamedTuple):
    """What everything is computed from.

    Attributes:
        prior: log density of the globals, scalar, nats.
        rows: log marginal likelihood of each row with its locals removed (a lower bound where a guide samples
            continuous locals), ``[batch]``, nats, not weighted.
    """

    prior: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Factor:
    """A weighted complete-data factor: ``sum(weights * fn.log_prob(value))`` is its share of the EM objective.

    Attributes:
        fn: distribution with batch shape ``S`` and event shape ``E``.
        value: broadcastable to ``S + E``.
        weights: posterior weights, broadcastable with ``S``, nonnegative.
        spread: covariance ``S + E + E`` of a value that is an expectation; None where the value is known.
    """

    fn: TorchDistribution
    value: Tensor
    weights: Tensor
    spread: Tensor | None = None


@runtime_checkable
class Collapsed(Protocol):
    """An observed distribution whose discrete locals are summed out in closed form.

    ``local`` names the latent; ``posterior(x)`` is its exact belief; ``factors(x, weights)`` splits the complete-data
    log-likelihood into named factors with posterior weights (which may be collapsed distributions again).
    """

    local: str

    def log_prob(self, value: Tensor) -> Tensor: ...

    def posterior(self, value: Tensor) -> TorchDistribution: ...

    def factors(self, value: Tensor, weights: Tensor) -> dict[str, Factor]: ...
