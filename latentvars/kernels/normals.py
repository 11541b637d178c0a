"""Log densities of normal components at points, and weighted sums of standardised residuals."""

from __future__ import annotations

import numpy as np
import torch

from latentvars.kernels import _core


def scores(points: np.ndarray, loc: np.ndarray, root: np.ndarray) -> np.ndarray:
    """log N(x_m; loc_k, (W_kᵀ W_k)⁻¹), nats, ``[M, K]``.

    Residuals are taken before anything is squared: no digits are lost however far from one another components lie.

    Args:
        points: ``[M, D]`` float64, C-contiguous, as the others.
        loc: ``[K, D]``.
        root: W, lower triangular ``[K, D, D]``, or its diagonal ``[K, D]``.
    """
    found = np.empty((len(points), len(loc)))
    _core.normal_scores(points, loc, root, torch.get_num_threads(), found)
    return found


def sums(points: np.ndarray, loc: np.ndarray, root: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Σ_m w_mk (1, y, y yᵀ) with y = W_k (x_m − loc_k), ``[K, 1 + D + D(D+1)/2]``: of y yᵀ the lower half, row by row;
    its diagonal where W is diagonal, ``[K, 1 + 2D]``.

    They do not depend on the number of threads; ``weights [M, K]``.
    """
    features = points.shape[1]
    squares = features * (features + 1) // 2 if root.ndim == 3 else features
    found = np.empty((len(loc), 1 + features + squares))
    _core.normal_sums(points, loc, root, weights, torch.get_num_threads(), found)
    return found
