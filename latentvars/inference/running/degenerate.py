"""Degenerate fits: components that collapsed onto a few rows, and empty ones; found, named, and kept or refused.

The likelihood of a mixture of normals has no maximum: a component on one row can make it as high as one likes (Day
1969). The variance floor of EM keeps it finite; what is to become of an end at the floor is a rule of the user's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from latentvars.distributions.bijection import base_support
from latentvars.errors import NumericalError
from latentvars.inference.running.settings import check_at_least
from latentvars.program import Program
from latentvars.rows import Rows

EMPTY = 1e-3  # rows (or steps) of posterior weight below which a component is empty
SINGULAR = 1e-12  # variance, as a share of the largest of its global
SHOWN = 5


@dataclass(frozen=True)
class Keep:
    """Degenerate ends are kept and named, in ``fit.collapsed``, ``fit.empty`` and the report. Of several starts those
    that are not degenerate go first."""


@dataclass(frozen=True)
class Refuse:
    """A degenerate end is a ``NumericalError`` that names components and rows; of several starts it is a failed one."""


@dataclass(frozen=True)
class Restart:
    """A degenerate end is thrown away and the fit begins anew from another start, as ``mixtools`` does (Benaglia,
    Chauveau, Hunter & Young 2009, section 2.1). Of several starts a degenerate one failed: the others are the new ones.

    Attributes:
        times: most new starts; after the last the end is refused.
    """

    times: int = 10

    def __post_init__(self) -> None:
        check_at_least("times", self.times, 1)


Degenerate = Keep | Refuse | Restart


def empty(program: Program, values: Mapping[str, Tensor], rows: Rows) -> tuple[str, ...]:
    """Values of discrete locals that no row (no step) has, as ``z[2]``."""
    return without_rows([masses(program, values, rows)])


def without_rows(shares: Sequence[Mapping[str, Tensor]]) -> tuple[str, ...]:
    """The same from the :func:`masses` of shares of the rows."""
    found = []
    for name in shares[0]:
        mass = torch.stack([share[name] for share in shares]).sum(0)
        found += [f"{name}[{k}]" for k in (mass < EMPTY).nonzero()[:, 0].tolist()]
    return tuple(found)


def described(
    program: Program, values: Mapping[str, Tensor], rows: Rows, collapsed: Sequence[str], none: Sequence[str]
) -> str:
    """What is degenerate at some globals, with the rows that hold it."""
    parts = []
    for element in collapsed:
        held = _held(program, values, rows, element)
        parts.append(f"{element} has collapsed" + (f" onto {held}" if held else ""))
    parts += [f"{element} is empty: no row belongs to it" for element in none]
    return "; ".join(parts)


def refused(
    program: Program, values: Mapping[str, Tensor], rows: Rows, collapsed: Sequence[str], none: Sequence[str]
) -> NumericalError | None:
    """The error of a degenerate end with these collapsed and empty elements, None where there are none."""
    text = described(program, values, rows, collapsed, none)
    if not text:
        return None
    return NumericalError(
        given=f"a degenerate fit: {text}",
        needed="components that describe more than a few rows, and each some",
        remedy="use fewer components, a tied covariance, a prior on the spread, or more starts (restarts=); "
        "remove duplicate rows; or keep such ends with degenerate=lv.Keep()",
    )


def explained(error: NumericalError) -> NumericalError:
    """The error of a run that broke off, with the components whose spread vanished and their rows, where some did."""
    fit: Any = getattr(error, "fit", None)
    try:
        text = "" if fit is None else _vanishing(fit)
    except Exception:  # naming is a courtesy: the first error counts
        text = ""
    if not text:
        return error
    found = NumericalError(f"{error.given}\n  degenerate: {text}", error.needed, error.remedy)
    found.fit = fit
    for note in getattr(error, "__notes__", ()):
        found.add_note(note)
    return found


def _vanishing(fit: Any) -> str:
    """The elements of globals that are singular after the update that follows a fit."""
    values = dict(fit.point)
    text = described(fit.program, values, fit.rows, singular(fit.program, values), ())
    if text or not hasattr(fit.state, "values"):
        return text
    batch = fit.rows.seen.batch(dtype=fit.program.dtype)
    total = fit.algorithm.contribution(fit.state, batch, 0)
    after = fit.algorithm.update(fit.state, total).values
    return described(fit.program, values, fit.rows, singular(fit.program, after), ())


def singular(program: Program, values: Mapping[str, Tensor]) -> list[str]:
    """Elements of positive or positive definite globals whose variance is nothing beside that of the others."""
    found = []
    for site in program.space.sites:
        support = base_support(site.support)
        value = values[site.name]
        if isinstance(support, type(constraints.positive_definite)):
            size = torch.linalg.eigvalsh(value.nan_to_num())[..., 0]
        elif isinstance(support, type(constraints.lower_cholesky)):
            size = value.diagonal(dim1=-2, dim2=-1).amin(-1).square()
        elif site.name.startswith("scale") and support is constraints.positive:
            size = value.square()
        else:
            continue
        largest = float(value.abs().max()) ** (2 if size.shape == value.shape else 1)
        found += [_element(site.name, at) for at in (size <= SINGULAR * max(largest, 1e-300)).nonzero().tolist()]
    return found


def _element(name: str, at: list[int]) -> str:
    return f"{name}{at}" if at else name


def masses(program: Program, values: Mapping[str, Tensor], rows: Rows) -> dict[str, Tensor]:
    """Discrete local → posterior weight of each of its values, ``[K]``, rows (steps)."""
    found: dict[str, Tensor] = {}
    for batch, name, probs in _beliefs(program, values, rows):
        weights = batch.weights.reshape(-1, *(1,) * (probs.dim() - 1))
        mass = (weights * probs).reshape(-1, probs.shape[-1]).sum(0)
        found[name] = found[name] + mass if name in found else mass
    return found


def _beliefs(program: Program, values: Mapping[str, Tensor], rows: Rows) -> Any:
    """Batch by batch the beliefs over discrete locals that lie ``[B, K]``, or ``[B, T, K]`` (0 on padding)."""
    for batch in rows.batches(rows.block, shuffle=False, dtype=program.dtype):
        for name, belief in program.beliefs(values, batch).items():
            probs: Any = getattr(belief, "marginals", None)
            if probs is None:
                probs = getattr(belief, "probs", None) if hasattr(belief, "logits") else None
            if probs is None or probs.dim() < 2 or probs.shape[0] != len(batch):
                continue
            if probs.dim() == 3 and batch.mask is not None and probs.shape[1] == batch.mask.shape[1]:
                probs = probs * batch.mask[..., None]
            yield batch, name, probs


def _held(program: Program, values: Mapping[str, Tensor], rows: Rows, element: str) -> str:
    """The rows that most probably belong to the component of an element such as ``covariance[2]``."""
    number = re.search(r"\[(\d+)", element)
    if number is None:
        return ""
    k, held = int(number[1]), []
    for batch, _, probs in _beliefs(program, values, rows):
        if k >= probs.shape[-1]:
            return ""
        belongs = (probs[..., k] > 0.5).reshape(len(batch), -1).any(1) & (batch.weights > 0)
        held += [rows.names[i] for i in batch.index[belongs].tolist()]
    if not held:
        return ""
    shown = ", ".join(str(name) for name in held[:SHOWN]) + (", ..." if len(held) > SHOWN else "")
    return f"row{'s' * (len(held) > 1)} [{shown}]" + (f" ({len(held)} rows)" if len(held) > SHOWN else "")
