"""What pictures of chains read of a fit."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from latentvars.distributions import HiddenMarkov
from latentvars.errors import KindError
from latentvars.inference import Fit
from latentvars.rows import Rows


def chain_of(fit: Fit, rows: Rows) -> tuple[HiddenMarkov, Tensor]:
    """The chain at the point, with the series of all rows ``[N, T, *E]``.

    Raises:
        KindError: a fit of another model.
    """
    batch = rows.batch(dtype=fit.program.dtype)
    for factor in fit.program.factor_distributions(fit.point, batch).values():
        if isinstance(factor.fn, HiddenMarkov):
            return factor.fn, factor.value
    raise KindError(
        given=f"a fit of {type(fit.model).__name__}",
        needed="an observed site that is a HiddenMarkov distribution",
        remedy="draw other beliefs by responsibilities() or latent()",
    )


def state_means(chain: HiddenMarkov, feature: int) -> np.ndarray | None:
    """The mean of one feature in each state, ``[K]`` or at each step of the first row ``[T, K]``; None without one."""
    try:
        mean = chain.emission.mean.detach()
    except NotImplementedError:
        return None
    mean = mean[..., feature] if chain.emission.event_shape else mean
    while mean.dim() > 2 or (mean.dim() == 2 and not chain.emitting):
        mean = mean[0]
    return None if bool(mean.isnan().any()) else mean.double().numpy()


def state_order(chain: HiddenMarkov, feature: int = 0) -> np.ndarray:
    """The states by their mean, lowest first; by number where they have none. A state has the colour of its place."""
    means = state_means(chain, feature)
    return np.arange(chain.states) if means is None else np.argsort(means.reshape(-1, chain.states).mean(0))
