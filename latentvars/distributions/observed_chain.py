"""log p(x) of chains by the compiled core straight from their observations: no table of densities is stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pyro.distributions import Categorical, TorchDistribution
from torch import Tensor

from latentvars.distributions.normal_blocks import LOG_TWO_PI
from latentvars.distributions.normal_scores import normal_of_points
from latentvars.distributions.operators import array_of, holds_numbers

MOST_CATEGORIES = 4096


def observed_evidence(
    initial: Tensor, transition: Tensor, emission: TorchDistribution, lengths: Tensor | None, value: Tensor
) -> Tensor | None:
    """log p(x_1..T), nats, ``[...]``, for normal or categorical emissions in double precision on a CPU.

    None where something has a derivative, is recorded or mapped, or needs other ways.

    Args:
        initial: ``[K]``.
        transition: ``[K, K]``.
        emission: of batch shape ``[K]``.
        lengths: broadcastable to ``[...]``; None where all steps count.
        value: ``[..., T, *E]``.
    """
    parameters = [one for one in vars(_base(emission)).values() if isinstance(one, Tensor)]
    given = (initial, transition, value, *parameters)
    if not holds_numbers(*given):
        return None
    if initial.dtype != torch.float64 or initial.dim() != 1 or transition.dim() != 2:
        return None
    read = _codes(emission, value) if isinstance(emission, Categorical) else _normals(emission, value)
    if read is None:
        return None
    from latentvars.kernels.chains import Observed
    from latentvars.kernels.chains import observed_evidence as evidence

    form, points, natural = read
    lead = value.shape[: value.dim() - 1 - len(emission.event_shape)]
    each = value.shape[len(lead)]
    counts = torch.full(lead, each) if lengths is None else lengths.expand(lead).contiguous()
    arrays = (points, natural, initial, transition)
    values, natural, law, moves = map(array_of, arrays)
    begins, centre = np.arange(lead.numel()) * each, np.zeros(points.shape[1])
    found = evidence(Observed(form, values, centre, natural, law, moves, begins, counts.numpy().reshape(-1)))
    return None if found is None else torch.from_numpy(found).reshape(lead)


def _base(emission: Any) -> Any:
    return emission.base_dist if type(emission).__name__ == "Independent" else emission


def _codes(emission: Any, value: Tensor) -> tuple[Any, Tensor, Tensor] | None:
    from latentvars.kernels.mixtures import Form

    logits = emission.logits
    if type(emission) is not Categorical or logits.dim() != 2 or logits.shape[-1] > MOST_CATEGORIES:
        return None
    return Form.CODES, value.reshape(-1, 1).to(torch.float64), logits.mT


def _normals(emission: TorchDistribution, value: Tensor) -> tuple[Any, Tensor, Tensor] | None:
    from latentvars.kernels.mixtures import Form

    found = normal_of_points(emission, value.unsqueeze(-1 - len(emission.event_shape)))
    if found is None:
        return None
    loc, root = found
    size = loc.shape[1]
    if root.dim() == 2:
        form, diagonal, rest = Form.APART, root, root
    else:
        form, diagonal = Form.WHITENED, root.diagonal(dim1=-2, dim2=-1)
        rest = root[(slice(None), *torch.tril_indices(size, size))]
    constant = diagonal.log().sum(-1, keepdim=True) - 0.5 * size * LOG_TWO_PI
    return form, value.reshape(-1, size), torch.cat([constant, loc, rest], 1)
