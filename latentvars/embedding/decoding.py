"""Back from vectors to rows: the expected row given the latents that a vector stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from latentvars.embedding.channels import Channel
from latentvars.errors import DataError, KindError, ShapeError
from latentvars.latent_space import LatentSpace

ROUNDING = 1e-3  # by which probabilities from a file may miss


def decoded(fitted: Any, parts: Sequence[Channel], vectors: np.ndarray) -> np.ndarray:
    """E[x | z] at the vectors ``[M, W]``; of probabilities of categories or states, their average of E[x | z = k].

    Args:
        fitted: the fit.
        parts: what the vectors consist of.
        vectors: as the embedding gives them.

    Returns:
        ``[M, ...]``, what the model's observed site holds.

    Raises:
        KindError: vectors of several locals; a model with several observed sites.
        ShapeError: vectors of another width.
        DataError: vectors of categories or states that are no probabilities.
    """
    if len(parts) > 1:
        raise KindError(
            given=f"vectors of the locals {[part.site for part in parts]}",
            needed="vectors of one local, which is decoded",
            remedy="write sites=, or decode with lv.LatentSpace(fit, site)",
        )
    (part,) = parts
    if vectors.ndim != 2 or vectors.shape[1] != part.width:
        raise ShapeError(f"vectors of shape {list(vectors.shape)}", f"[M, {part.width}]", "pass those of transform.")
    space = LatentSpace(fitted, part.site)
    if space.discrete:
        _check_probabilities(vectors)
        codes = torch.arange(part.width)
        laws = space.decode(codes[:, None] if part.per_step else codes)
        each = _only(laws).reshape(part.width, -1)
        rows = vectors @ each
        return rows.reshape(len(vectors), *_only(laws).shape[2 if part.per_step else 1 :])
    return _only(space.decode(torch.from_numpy(vectors.reshape(-1, *part.shape).copy())))


def _check_probabilities(vectors: np.ndarray) -> None:
    away = np.maximum(np.abs(vectors.sum(1) - 1), -vectors.min(1))
    if (away > ROUNDING).any():
        raise DataError(
            given=f"{int((away > ROUNDING).sum())} vectors that are no probabilities, such as "
            f"{vectors[int(away.argmax())].round(3).tolist()}",
            needed="numbers from 0 that add up to 1, as the vectors of categories and states",
            remedy="leave vectors as transform gives them, or average them; divide by their sums",
        )


def _only(laws: Any) -> np.ndarray:
    if len(laws.sites) > 1:
        raise KindError(
            given=f"a model that observes {list(laws.sites)}",
            needed="one observed site",
            remedy="decode with lv.LatentSpace(fit, site), which gives each of them",
        )
    return laws.mean().detach().cpu().numpy()
