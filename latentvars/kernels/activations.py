"""Activations of networks with their slopes, in one pass."""

from __future__ import annotations

import numpy as np
import torch

from latentvars.kernels import _core


def gelu(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x Φ(x) and its slopes Φ(x) + x φ(x), ``[...]`` float32, C-contiguous; both err by less than 4e-7."""
    values, slopes = np.empty_like(x), np.empty_like(x)
    _core.gelu(x, torch.get_num_threads(), values, slopes)
    return values, slopes
