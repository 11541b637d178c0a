"""What an emission is: the law of one observation in each component of a mixture or state of a chain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pyro.distributions import TorchDistribution
from torch import Tensor

from latentvars.errors import DataError, SettingError
from latentvars.models.priors import Priors

PSEUDO_ROWS = 1.0  # weight of the whole data in the start of each group, so that no group is degenerate


class Emission(Protocol):
    """The law of one observation x of D features in each of K groups (components or states).

    Attributes:
        features: D; None where it is taken from the data.
        blur: share of chance in the groups from which a start is estimated.

    One that reads inputs has two members more: ``reads``, the names of their columns, and ``at(columns)``, the emission
    at the inputs of some observations, whose distribution has the batch shape ``[..., groups]``.
    """

    @property
    def features(self) -> int | None: ...

    @property
    def blur(self) -> float: ...

    def distribution(self, groups: int, width: int | None, priors: Priors) -> TorchDistribution:
        """Declare the globals; batch shape ``[groups]``, event shape ``()`` or ``(D,)``.

        Args:
            groups: K.
            width: features of the data; None where an observation is a plain number.
            priors: laws of the globals.
        """
        ...

    def sites(self, group: str) -> dict[str, tuple[str, ...]]:
        """Names of the axes of each global; ``group`` is the name of the first."""
        ...

    def coords(self, features: tuple[str, ...]) -> dict[str, list[str]]:
        """Labels along the axes of the globals, but for the groups."""
        ...

    def points(self, x: Tensor) -> Tensor:
        """Where observations ``[S, D]`` lie, ``[S, P]``, in a space whose distances make sense for a start."""
        ...

    def start(self, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Estimates inside the support from observations ``[S, D]`` that belong to the groups by ``[S, K]`` ≥ 0."""
        ...

    def check(self, x: Tensor, features: tuple[str, ...]) -> None:
        """Whether observations ``[S, D]`` lie in the support; errors name the feature."""
        ...

    def check_estimable(self, x: Tensor, features: tuple[str, ...]) -> None:
        """Whether the globals can be estimated from observations ``[S, D]``."""
        ...


def reads(emission: Emission) -> tuple[str, ...]:
    """The columns of inputs that an emission reads; () for most."""
    return getattr(emission, "reads", ())


def at(emission: Any, columns: Mapping[str, Tensor]) -> Emission:
    """The emission at the inputs of these observations; itself where it reads none."""
    return emission.at(columns) if reads(emission) else emission


def positive(name: str, value: int | None) -> None:
    """Check a setting that counts something (None passes)."""
    if value is not None and (not isinstance(value, int) or value < 1):
        raise SettingError(f"{name}={value!r}", "a whole number of at least 1", f"change {name}.")


def scalar_or_row(value: Tensor, width: int | None) -> Tensor:
    """``[K, D]`` as it is, or ``[K]`` where an observation is a plain number."""
    return value[:, 0] if width is None else value


def event_dims(width: int | None) -> int:
    """Event dimensions of one observation."""
    return 0 if width is None else 1


def refuse(wrong: Tensor, x: Tensor, features: tuple[str, ...], needed: str, remedy: str) -> None:
    """Raise a DataError if any entry of ``x`` ``[S, D]`` is wrong, with the first by name, position and value.

    Missing entries (NaN) are never wrong.
    """
    if not bool(wrong.any()):
        return
    wrong = wrong & ~x.isnan()
    if bool(wrong.any()):
        row, feature = wrong.nonzero()[0].tolist()
        raise DataError(
            given=f"{int(wrong.sum())} entries, the first {x[row, feature].item():g} in feature {features[feature]!r} "
            f"at position {row}",
            needed=needed,
            remedy=remedy,
        )


def group_means(x: Tensor, weights: Tensor, overall: Tensor) -> Tensor:
    """Weighted means ``[K, D]`` of ``[S, D]``, drawn towards ``overall`` ``[D]`` by :data:`PSEUDO_ROWS`."""
    return (weights.mT @ x + PSEUDO_ROWS * overall) / (weights.sum(0)[:, None] + PSEUDO_ROWS)
