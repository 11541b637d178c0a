"""Rows of independent bits: log densities and slopes in one pass."""

from __future__ import annotations

import numpy as np
import torch

from latentvars.kernels import _core


def scores(logits: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Σ_d x_d l_d − log(1 + exp l_d), nats, ``[M]``, and its slopes x − sigmoid(l), ``[M, D]``.

    Args:
        logits: l, ``[M, D]`` float64 or float32, C-contiguous.
        values: x in [0, 1], of that shape and precision.
    """
    found, slopes = np.empty(len(logits), logits.dtype), np.empty_like(logits)
    _core.bernoulli_rows(logits, values, torch.get_num_threads(), found, slopes)
    return found, slopes
