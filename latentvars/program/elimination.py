"""Summing discrete latents out of a product of log-factors, by variable elimination in log space.

Terms are added before they are exponentiated, so factors that contradict one another by thousands of nats lose nothing
(a product of separately shifted exponentials would underflow).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from latentvars.distributions.log_space import log_sum_exp


@dataclass(frozen=True)
class Term:
    """A log-factor with named axes.

    Attributes:
        value: tensor whose axes are ``dims``.
        dims: one symbol an axis: latents and plates.
        plates: symbols of all plates in which the factor stands, also those along which it is constant.
    """

    value: Tensor
    dims: str
    plates: frozenset[str]


def eliminate(terms: Iterable[Term], latents: dict[str, frozenset[str]], sizes: dict[str, int], keep: str) -> Tensor:
    """Sum every latent out and multiply over every plate but ``keep``.

    Args:
        terms: log-factors; those of one latent stand in its plates or in plates nested below.
        latents: symbol of each latent → symbols of the plates in which it is drawn.
        sizes: number of elements of each plate.
        keep: symbol of the plate that remains.

    Returns:
        ``[sizes[keep]]``, nats.
    """
    pool = list(terms)
    while pending := {symbol for term in pool for symbol in term.dims if symbol in latents}:
        depth = max(len(latents[symbol]) for symbol in pending)
        innermost = [symbol for symbol in pending if len(latents[symbol]) == depth]
        symbol = min(innermost, key=lambda s: (_merged_size(_touching(pool, s)), s))
        touching = [_reduce_plates(term, latents[symbol], sizes) for term in _touching(pool, symbol)]
        pool = [term for term in pool if symbol not in term.dims]
        joint = _merge(touching)
        position = joint.dims.index(symbol)
        dims = joint.dims.replace(symbol, "")
        pool.append(Term(log_sum_exp(joint.value, position), dims, latents[symbol]))
    target = frozenset(keep)
    rows = [_reduce_plates(term, target, sizes) for term in pool]
    total = _merge(rows).value if rows else torch.zeros(())
    return total.expand(sizes[keep])


def marginal(weight: Term, keep: Sequence[str]) -> Tensor:
    """Sum a term over every axis that is not in ``keep``; the axes of the result stand in the order of ``keep``."""
    axes = [position for position, symbol in enumerate(weight.dims) if symbol not in keep]
    value = weight.value.sum(axes) if axes else weight.value
    left = [symbol for symbol in weight.dims if symbol in keep]
    return value.permute([left.index(symbol) for symbol in keep if symbol in left])


def _touching(pool: list[Term], symbol: str) -> list[Term]:
    return [term for term in pool if symbol in term.dims]


def _merged_size(terms: list[Term]) -> int:
    sizes = {symbol: size for term in terms for symbol, size in zip(term.dims, term.value.shape, strict=True)}
    return reduce(lambda product, size: product * size, sizes.values(), 1)


def _reduce_plates(term: Term, target: frozenset[str], sizes: dict[str, int]) -> Term:
    """Multiply over the plates outside ``target``; a factor that is constant along one counts once an element."""
    value, dims = term.value, term.dims
    for plate in sorted(term.plates - target):
        if plate in dims:
            value = value.sum(dims.index(plate))
            dims = dims.replace(plate, "")
        else:
            value = value * sizes[plate]
    return Term(value, dims, term.plates & target)


def _merge(terms: list[Term]) -> Term:
    """The sum of log-factors, broadcast over the union of their axes."""
    dims = "".join(dict.fromkeys("".join(term.dims for term in terms)))
    aligned = []
    for term in terms:
        order = [term.dims.index(symbol) for symbol in dims if symbol in term.dims]
        value = term.value.permute(order)
        shape = [next(sizes) if symbol in term.dims else 1 for sizes in [iter(value.shape)] for symbol in dims]
        # in one order of memory: sums of what lies crosswise, and all that follows, take several times as long
        aligned.append(value.reshape(shape).contiguous())
    plates = frozenset().union(*(term.plates for term in terms))
    return Term(reduce(torch.add, aligned), dims, plates)
