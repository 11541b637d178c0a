"""How many components rows belong to: a number that no order of the labels changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from latentvars.errors import NameUnknownError, SettingError, SupportError
from latentvars.rows import Rows

if TYPE_CHECKING:
    import pandas


class Drawable(Protocol):
    """What is read: :class:`latentvars.Fit`."""

    @property
    def rows(self) -> Rows: ...

    @property
    def extent(self) -> object | None: ...

    def conform(self, data: Any) -> Rows: ...

    def draw_latents(self, data: Any = None, draws: int = 100, *, seed: int | None = None) -> dict[str, Tensor]: ...


@dataclass(frozen=True, eq=False)
class Occupied:
    """The number of values of a discrete local that rows (steps) have, draw by draw.

    Attributes:
        local: its name.
        counts: ``[S]`` int64, one for each draw.
        share: of all rows, by weight, that makes a value count.
    """

    local: str
    counts: Tensor = field(repr=False)
    share: float = 0.0

    @property
    def probs(self) -> dict[int, float]:
        """Number → its posterior probability."""
        found, often = self.counts.unique(return_counts=True)
        return dict(zip(found.tolist(), (often / len(self.counts)).tolist(), strict=True))

    @property
    def mode(self) -> int:
        """The most probable number, the smallest of equals."""
        return max(self.probs, key=lambda number: (self.probs[number], -number))

    @property
    def mean(self) -> float:
        """Posterior mean."""
        return float(self.counts.double().mean())

    def interval(self, probability: float = 0.89) -> tuple[int, int]:
        """Equal-tailed interval of the draws.

        Raises:
            SettingError: a probability outside (0, 1).
        """
        if not 0 < probability < 1:
            raise SettingError(f"probability={probability}", "a number between 0 and 1", "write interval(0.89)")
        tails = torch.tensor([0.5 - probability / 2, 0.5 + probability / 2], dtype=torch.float64)
        low, high = torch.quantile(self.counts.double(), tails, interpolation="nearest").long().tolist()
        return low, high

    def table(self) -> pandas.DataFrame:
        """A line for each number with its posterior ``probability``."""
        import pandas

        return pandas.DataFrame({"occupied": list(self.probs), "probability": list(self.probs.values())})

    def __str__(self) -> str:
        low, high = self.interval()
        listed = ", ".join(f"{number}: {prob:.3f}" for number, prob in self.probs.items())
        return f"values of {self.local!r} that rows have: mean {self.mean:.2f}, 89 %: {low} … {high} ({listed})"


def occupied(
    fit: Drawable,
    data: Any = None,
    *,
    draws: int = 200,
    share: float = 0.0,
    local: str | None = None,
    seed: int | None = None,
) -> Occupied:
    """The posterior of how many components (classes, states) the rows belong to, from draws of their locals.

    Under a :func:`latentvars.stick_breaking` prior of the weights that is the number of components that a Dirichlet
    process finds (Antoniak 1974). Labels may switch between draws: only how many there are is counted.

    Args:
        fit: of a model with a discrete local, by any algorithm; where its globals are a point, only the locals vary.
        data: new rows; those of the fit by default.
        draws: S, as in :meth:`latentvars.Fit.draw_latents`.
        share: of the total weight that makes a value count; 0: one row (step) of positive weight is enough.
        local: its name, where there are several.
        seed: of the draws; None: that of the fit.

    Raises:
        SupportError: no discrete local, or a fit of several processes.
        NameUnknownError: several, of which none was named.
        SettingError: a share outside [0, 1), or fewer than one draw.
    """
    if not 0 <= share < 1:
        raise SettingError(f"share={share}", "from 0 to below 1", "write share=0.01")
    if fit.extent is not None:
        raise SupportError(
            given="a fit of several processes, each of which has rows of its own",
            needed="all rows in one process",
            remedy="save its point, and read lv.from_point(model, data, point) in one process",
        )
    rows = fit.rows if data is None else fit.conform(data)
    drawn = fit.draw_latents(data, draws, seed=seed)
    whole = {name: value.long() for name, value in drawn.items() if bool((value == value.round()).all())}
    name = _name(whole, local)
    labels = whole[name].flatten(2) if whole[name].dim() > 2 else whole[name][..., None]
    weights = rows.weights[:, None].expand(labels.shape[1:])
    return Occupied(name, torch.stack([_count(one, weights, share) for one in labels]), share)


def _name(drawn: dict[str, Tensor], local: str | None) -> str:
    if not drawn:
        raise SupportError(
            given="a model without discrete locals",
            needed="a component, class or state for each row",
            remedy="read fit.latent() for continuous locals",
        )
    if local is None and len(drawn) == 1:
        return next(iter(drawn))
    if local not in drawn:
        raise NameUnknownError(f"the discrete local {local!r}", f"one of {list(drawn)}", "name it by local=")
    return local


def _count(labels: Tensor, weights: Tensor, share: float) -> Tensor:
    """How many labels ``[N, E]`` have their share of the weight."""
    there = labels >= 0
    mass = torch.bincount(labels[there], weights=weights[there])
    return ((mass > 0) & (mass >= share * mass.sum())).sum()
