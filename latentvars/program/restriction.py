"""Globals that are partly known: entries that are fixed, and entries that share one value.

A restriction is a bijection of its own between as many unconstrained numbers as there are degrees of freedom left and
the whole value of the global; fixed entries pass through it to the bit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from torch import Size, Tensor
from torch.distributions import StickBreakingTransform, Transform, constraints
from torch.distributions.constraints import Constraint

from latentvars.distributions.bijection import base_support, bijection
from latentvars.errors import KindError, NameUnknownError, SettingError, ShapeError, SupportError

SUM_SLACK = 1e-6  # of fixed probabilities that sum to one


class Restriction(Transform):
    """Free numbers ``[..., m]`` → values ``[..., *shape]`` in which some entries are fixed or tied.

    Attributes:
        fixed: ``[*shape]``, NaN where an entry is free.
        code: ``[*shape]`` int64, equal where entries share one value.
        values: number of values that the entries have at most, ties counted once.
        first: ``[values]`` position of an entry that has each.
        tied: whether some entries share one value.
        free: m.
    """

    domain = constraints.real_vector
    bijective = True
    free: int

    def __init__(self, fixed: Tensor, code: Tensor) -> None:
        super().__init__()
        self.fixed, self.code = fixed, code
        self.values = int(code.max()) + 1
        self.tied = self.values < code.numel()
        self.first = torch.zeros(self.values).long().index_copy(0, code.flatten(), torch.arange(code.numel()))

    @property
    def held(self) -> Tensor:
        """Which entries are fixed, ``[*shape]``."""
        return ~self.fixed.isnan()

    def __str__(self) -> str:
        size, held = self.code.numel(), int(self.held.sum())
        parts = [f"{held} of {size} entries fixed"] if held else []
        return ", ".join(parts + ([f"{size} entries have {self.values} values"] if self.tied else []))

    @abstractmethod
    def project(self, value: Tensor, current: Tensor | None = None) -> Tensor:
        """The value ``[..., *shape]`` with what is fixed put back and what is tied made equal.

        Args:
            value: in the support.
            current: taken for probabilities of a row that has none left; equal shares by default.
        """

    @abstractmethod
    def separable(self, block: int) -> bool:
        """Whether the maximum under the restriction is the projection of the maximum without it, where the objective
        is a sum over blocks of this many consecutive entries."""


@final
class Entries(Restriction):
    """Of a support whose entries are independent, or of a value that is fixed as a whole."""

    def __init__(self, support: Constraint, fixed: Tensor, code: Tensor) -> None:
        super().__init__(fixed, code)
        self.codomain = support
        held = self.held.flatten()
        groups, place = torch.unique(torch.where(held, -1, code.flatten()), return_inverse=True)
        place = place - int(held.any())  # the fixed entries come first, as group -1
        self.free = len(groups) - int(held.any())
        self._place = place.clamp(min=0)
        self._first = torch.tensor([int((place == k).to(torch.uint8).argmax()) for k in range(self.free)]).long()
        self._positions = (~held).nonzero()[:, 0]
        self._base: Any = bijection(base_support(support)) if self.free else None

    def _call(self, x: Tensor) -> Tensor:
        return self._whole(self._base(x)) if self.free else self._whole(x)

    def _inverse(self, y: Tensor) -> Tensor:
        chosen = self._flat(y)[..., self._first]
        return self._base.inv(chosen) if self.free else chosen

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Of the free numbers, ``[..., m]``."""
        return self._base.log_abs_det_jacobian(x, self._base(x)) if self.free else torch.zeros_like(x)

    def project(self, value: Tensor, current: Tensor | None = None) -> Tensor:
        flat = self._flat(value)
        if not self.tied:
            return self._whole(flat[..., self._first])
        place = self._place[self._positions]
        count = torch.bincount(place, minlength=self.free).to(flat.dtype)
        total = flat.new_zeros((*flat.shape[:-1], self.free)).index_add(-1, place, flat[..., self._positions])
        return self._whole(total / count)

    def separable(self, block: int) -> bool:
        held = self.held.reshape(-1, block)
        return block == 1 or (not self.tied and bool((held.all(1) | ~held.any(1)).all()))

    def _flat(self, value: Tensor) -> Tensor:
        return value.reshape((*value.shape[: value.dim() - self.fixed.dim()], self.fixed.numel()))

    def _whole(self, free: Tensor) -> Tensor:
        lead = free.shape[:-1]
        given = self.fixed.nan_to_num().to(free)
        if not self.free:
            return given.expand(lead + given.shape).clone()
        held = self.held.flatten()
        return torch.where(held, given.flatten(), free[..., self._place]).reshape(lead + given.shape)


@final
class Shares(Restriction):
    """Of the rows of probabilities: the free entries of a row share what the fixed ones leave, by stick-breaking."""

    codomain = constraints.simplex

    def __init__(self, fixed: Tensor, code: Tensor) -> None:
        super().__init__(fixed, code)
        rows = fixed.reshape(-1, fixed.shape[-1])
        free = rows.isnan()
        rest = 1 - rows.nan_to_num().sum(-1)
        single = free & ((free.sum(-1) == 1) | (rest <= SUM_SLACK**2))[:, None]
        self._given = torch.where(single, rest.clamp(min=0)[:, None], rows.nan_to_num())
        self._free = free & ~single
        counts = self._free.sum(-1)
        self._groups = []
        for count in counts[counts > 0].unique().tolist():
            at = (counts == count).nonzero()[:, 0]
            positions = self._free[at].nonzero()[:, 1].reshape(len(at), count) + at[:, None] * rows.shape[-1]
            self._groups.append((positions, rest[at, None]))
        self.free = sum(positions.numel() - len(positions) for positions, _ in self._groups)
        order = [positions.flatten() for positions, _ in self._groups]
        self._place = torch.zeros(fixed.numel(), dtype=torch.int64)
        if order:
            self._place[torch.cat(order)] = torch.arange(sum(map(len, order)))

    def _call(self, x: Tensor) -> Tensor:
        parts = self._parts(x)
        shares = [_stick(part) * rest.to(x) for part, (_, rest) in zip(parts, self._groups, strict=True)]
        return self._whole(shares, x)

    def _inverse(self, y: Tensor) -> Tensor:
        found = []
        for share in self._shares(y):
            inverse: Any = StickBreakingTransform().inv
            part = inverse(share / share.sum(-1, keepdim=True))
            found.append(part.flatten(-2))
        return torch.cat(found, -1) if found else y.new_zeros((*y.shape[: y.dim() - self.fixed.dim()], 0))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Of the free entries of each row but one, ``[..., rows with free entries]``."""
        found = [x.new_zeros((*x.shape[:-1], 0))]
        for part, (_, rest) in zip(self._parts(x), self._groups, strict=True):
            scale = part.shape[-1] * rest.to(x)[:, 0].log()
            found.append(StickBreakingTransform().log_abs_det_jacobian(part, _stick(part)) + scale)
        return torch.cat(found, -1)

    def project(self, value: Tensor, current: Tensor | None = None) -> Tensor:
        found = []
        others = None if current is None else self._shares(current)
        for k, (share, (_, rest)) in enumerate(zip(self._shares(value), self._groups, strict=True)):
            total = share.sum(-1, keepdim=True)
            known, rest = total > 0, rest.to(share)
            default = rest / share.shape[-1] if others is None else others[k]
            found.append(torch.where(known, share / torch.where(known, total, 1.0) * rest, default))
        return self._whole(found, value.flatten(value.dim() - self.fixed.dim()))

    def separable(self, block: int) -> bool:
        return block == self.fixed.shape[-1]

    def _parts(self, x: Tensor) -> list[Tensor]:
        """Unconstrained numbers of the rows with equally many free entries, ``[..., rows, free entries − 1]`` each."""
        sizes = [positions.numel() - len(positions) for positions, _ in self._groups]
        shapes = [(len(positions), positions.shape[1] - 1) for positions, _ in self._groups]
        return [part.unflatten(-1, shape) for part, shape in zip(x.split(sizes, -1), shapes, strict=True)]

    def _shares(self, y: Tensor) -> list[Tensor]:
        flat = y.flatten(y.dim() - self.fixed.dim())
        return [flat[..., positions] for positions, _ in self._groups]

    def _whole(self, shares: list[Tensor], like: Tensor) -> Tensor:
        """``[..., *shape]`` from the entries of the rows with equally many free ones."""
        lead, given = like.shape[:-1], self._given.to(like).flatten()
        if not shares:
            return given.reshape(self.fixed.shape).expand(lead + self.fixed.shape).clone()
        free = torch.cat([share.flatten(-2) for share in shares], -1)
        whole = torch.where(self._free.flatten(), free[..., self._place], given)
        return whole.reshape(lead + self.fixed.shape)


def restriction_of(name: str, shape: Size, support: Constraint, fixed: Any, tied: Any) -> Restriction | None:
    """The restriction of one global; None where nothing is fixed or tied.

    Raises:
        ShapeError: of another shape than the global.
        KindError: no numbers, or ties that are not whole numbers.
        SettingError: values outside the support, probabilities that sum to more than one, ties of fixed entries.
        SupportError: a support of which single entries cannot be fixed or tied.
    """
    given = _array("fixed", name, fixed, shape) if fixed is not None else torch.full(shape, torch.nan).double()
    groups = _array("tied", name, tied, shape) if tied is not None else torch.full(shape, -1.0)
    if bool((groups != groups.round()).any()):
        raise KindError(f"tied[{name!r}] with other values than whole numbers", "group numbers", "write integers")
    held, code = ~given.isnan(), _code(groups)
    if not bool(held.any()) and int(code.max()) + 1 == code.numel():
        return None
    if bool((held & (groups >= 0)).any()):
        raise SettingError(
            given=f"entries of {name!r} that are both fixed and tied",
            needed="one or the other",
            remedy="fix all entries of the group at the value, and leave them out of tied=",
        )
    base = base_support(support)
    shares = type(base) is type(constraints.simplex) and tied is None
    if shares:
        _check_shares(name, given)
    if bool(held.all()):
        _check_values(name, support, bool(support.check(given).all()), given)
        return Entries(support, given, code)
    if shares:
        return Shares(given, code)
    bounds = [getattr(base, bound, None) for bound in ("lower_bound", "upper_bound")]
    if base.event_dim or any(isinstance(bound, Tensor) and bound.numel() > 1 for bound in bounds):
        raise SupportError(
            given=f"single entries of {name!r} fixed or tied, whose support is {support}",
            needed="a support whose entries are independent (or, to fix them, probabilities)",
            remedy=f"fix {name!r} as a whole, or write the model in terms of what is free",
        )
    _check_values(name, base, bool(base.check(given[held]).all()), given[held])
    return Entries(support, given, code)


def check_names(names: tuple[str, ...], given: Mapping[str, Any], what: str) -> None:
    """Every restriction is that of a global.

    Raises:
        NameUnknownError: there is no such global.
    """
    unknown = [name for name in given if name not in names]
    if unknown:
        raise NameUnknownError(
            given=f"{what}= of {', '.join(map(repr, unknown))}",
            needed=f"names of globals: {list(names)}",
            remedy=f"correct the name in {what}=",
        )


def _stick(part: Tensor) -> Tensor:
    found: Any = StickBreakingTransform()(part)
    return found


def _array(what: str, name: str, value: Any, shape: Size) -> Tensor:
    try:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        found = torch.tensor(array.astype(np.float64))
    except (TypeError, ValueError) as error:
        raise KindError(
            f"{what}[{name!r}] that is no array of numbers: {error}", "numbers", "write NaN or -1"
        ) from error
    if found.shape != shape:
        raise ShapeError(
            given=f"{what}[{name!r}] of shape {list(found.shape)}",
            needed=f"the shape of the global, {list(shape)}",
            remedy="give one number for each entry: NaN in fixed= leaves it free, -1 in tied= alone",
        )
    return found


def _code(groups: Tensor) -> Tensor:
    """Numbers of the values ``[*shape]``: equal for entries of one group, one for each other entry."""
    flat = groups.flatten().long()
    alone = flat.max().clamp(min=0) + 1 + torch.arange(len(flat))
    return torch.unique(torch.where(flat < 0, alone, flat), return_inverse=True)[1].reshape(groups.shape)


def _check_values(name: str, support: Any, inside: bool, given: Tensor) -> None:
    if not inside:
        raise SettingError(
            given=f"fixed values of {name!r} outside its support: {given.flatten()[:5].tolist()}",
            needed=f"values in {support}",
            remedy="correct fixed=",
        )


def _check_shares(name: str, given: Tensor) -> None:
    total, free = given.nan_to_num().sum(-1), given.isnan().any(-1)
    bad = (given < 0).any(-1) | (total > 1 + SUM_SLACK) | (~free & (total < 1 - SUM_SLACK))
    if bool(bad.any()):
        row, given_sum = given[bad].reshape(-1, given.shape[-1])[0].tolist(), float(total[bad][0])
        raise SettingError(
            given=f"fixed probabilities of {name!r} that cannot be: {row} (they sum to {given_sum:g})",
            needed="none below 0, at most 1 in total, and exactly 1 where no entry is free",
            remedy="correct fixed=; NaN leaves an entry free",
        )
