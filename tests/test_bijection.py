"""Bijections onto triangular and covariance matrices: round trips, sizes and Jacobians by automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import constraints

from latentvars.distributions.bijection import bijection
from latentvars.errors import ShapeError

CASES = {"covariance": constraints.positive_definite, "triangle": constraints.lower_cholesky}


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_the_log_jacobian_is_that_of_the_lower_triangle(name: str, size: int) -> None:
    transform = bijection(CASES[name])
    count = size * (size + 1) // 2
    x = torch.randn(4, count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = transform(x)
    assert bool(CASES[name].check(y).all())
    torch.testing.assert_close(transform.inv(y), x)
    assert transform.inverse_shape(y.shape) == x.shape and transform.forward_shape(x.shape) == y.shape
    rows, columns = torch.tril_indices(size, size)
    for i in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda v: transform(v)[rows, columns], x[i])
        torch.testing.assert_close(transform.log_abs_det_jacobian(x[i], y[i]), jacobian.slogdet()[1])


def test_independent_matrices_and_other_supports() -> None:
    transform = bijection(constraints.independent(constraints.positive_definite, 1))
    assert transform.inverse_shape((5, 3, 3)) == (5, 6)
    x = torch.randn(2, 5, 6)
    assert transform.log_abs_det_jacobian(x, transform(x)).shape == (2,)
    assert bijection(constraints.simplex).inverse_shape((4,)) == (3,)
    with pytest.raises(NotImplementedError):
        bijection(constraints.nonnegative_integer)
    for wrong in (lambda: transform(torch.zeros(5, 4)), lambda: transform.inverse_shape((5, 3, 2))):
        with pytest.raises(ShapeError):
            wrong()


def test_the_transform_works_under_vmap() -> None:
    transform = bijection(constraints.positive_definite)
    x = torch.randn(7, 3, dtype=torch.float64)
    torch.testing.assert_close(torch.vmap(transform)(x), transform(x))
