"""The posterior of the discrete globals, which all rows share, at a point of the continuous ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentvars.errors import NameUnknownError, NumericalError
from latentvars.program import Choices, Program
from latentvars.rows import Rows

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class SharedPosterior:
    """p(g | x, θ) of the discrete globals g, exact: every joint value is scored.

    Attributes:
        choices: the joint values, G of them.
        log_prior: ``[G]`` log p(θ, g), nats.
        log_likelihood: ``[G]`` Σ wₙ log p(xₙ | θ, g), nats.
    """

    choices: Choices
    log_prior: Tensor = field(repr=False)
    log_likelihood: Tensor = field(repr=False)

    @property
    def probs(self) -> Tensor:
        """``[G]`` posterior probabilities of the joint values."""
        return torch.softmax(self.log_prior + self.log_likelihood, 0)

    @property
    def mode(self) -> dict[str, Tensor]:
        """The most probable joint value."""
        return self.choices[int(self.probs.argmax())]

    @property
    def evidence(self) -> float:
        """log Σ_g p(g | θ) Π p(xₙ | θ, g)^{wₙ}, nats: the log-likelihood with the discrete globals summed out."""
        joint = torch.logsumexp(self.log_prior + self.log_likelihood, 0)
        return float(joint - torch.logsumexp(self.log_prior, 0))

    def marginal(self, name: str) -> tuple[Tensor, Tensor]:
        """The values ``[M, *shape]`` of one discrete global, and their posterior probabilities ``[M]``.

        Raises:
            NameUnknownError: there is no discrete global of that name.
        """
        if name not in self.choices.names:
            raise NameUnknownError(
                f"the discrete global {name!r}", f"one of {list(self.choices.names)}", "correct the name"
            )
        values, place = torch.unique(self.choices.values[name], dim=0, return_inverse=True)
        return values, torch.zeros(len(values), dtype=self.probs.dtype).index_add(0, place, self.probs)

    def table(self) -> pandas.DataFrame:
        """The joint values and their posterior probabilities, the most probable first."""
        import pandas

        columns = {name: value.tolist() for name, value in self.choices.values.items()}
        frame = pandas.DataFrame({**columns, "probability": self.probs.tolist()})
        return frame.sort_values("probability", ascending=False, ignore_index=True)


def shared_posterior(
    program: Program, point: Mapping[str, Tensor], rows: Rows, add: Callable[[Tensor], Tensor] | None = None
) -> SharedPosterior:
    """Score every joint value of the discrete globals; those under which the data are impossible have probability 0.

    Args:
        program, point, rows: the model, its globals and the data.
        add: the sum of what several processes, each with some of the rows, have.

    Raises:
        NumericalError: no joint value has a finite score.
    """
    prior, likelihood = [], []
    with torch.no_grad():
        for chosen in program.roles.choices:
            given, total = program.given(chosen), torch.zeros((), dtype=program.dtype)
            for batch in rows.batches(rows.block, shuffle=False, dtype=program.dtype):
                used = batch.weights > 0
                total = total + (given.score(point, batch).rows[used] * batch.weights[used]).sum()
            prior.append(given.prior(point))
            likelihood.append(total)
    evidence = torch.stack(likelihood) if add is None else add(torch.stack(likelihood))
    found = SharedPosterior(program.roles.choices, torch.stack(prior), evidence)
    if not bool(found.probs.isfinite().all()):
        raise NumericalError(
            given=f"a non-finite log-likelihood under every value of the discrete globals {list(found.choices.names)}",
            needed="data that are possible under one of them",
            remedy="check the rows against the support of the model",
        )
    return found
