"""What an exponential family knows: its statistics, its likelihood from them, and its maximum in closed form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor
from torch.distributions.constraints import Constraint

from latentvars.contract import Factor
from latentvars.distributions.bijection import base_support
from latentvars.families.leaves import argument

HALF_LINES = {type(constraints.positive), type(constraints.nonnegative)}
Statistics = Mapping[str, Tensor]
Arguments = dict[str, Tensor]


class Reference(NamedTuple):
    """What a family fixes once from the data, so that its statistics and maxima stay well conditioned.

    Attributes:
        centre: point near the data about which second moments are taken, so that differences do not cancel.
        least_variance: lower bound of variances, per coordinate; the M-step is the exact maximum under that bound;
            None where there is none.
    """

    centre: Tensor
    least_variance: Tensor | None


@dataclass(frozen=True)
class Selection:
    """An argument that is a pure selection (index, expand, view) of whole blocks of a global.

    Attributes:
        name: the global.
        shape: its shape; ``blocks`` blocks of shape ``event``.
        event: shape of one block, the event shape of the argument.
        index: ``[*batch]`` the block of the global that stands at each place of the argument.
        ordered: whether every block stands once, in the order of the global.
    """

    name: str
    shape: Size
    event: Size
    index: Tensor
    ordered: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        index = self.index.reshape(-1)
        ordered = index.numel() == self.blocks and torch.equal(index, torch.arange(self.blocks))
        object.__setattr__(self, "ordered", ordered)

    @property
    def blocks(self) -> int:
        return self.shape.numel() // max(self.event.numel(), 1)

    def take(self, values: Mapping[str, Tensor]) -> Tensor:
        """The argument at given globals: ``[*batch, *event]``."""
        if self.ordered:
            return values[self.name].reshape((*self.index.shape, *self.event))
        return values[self.name].reshape((self.blocks, *self.event))[self.index]

    def pull(self, statistic: Tensor, target: Size) -> Tensor:
        """Add up what belongs to one block: ``[*target, *rest]`` → ``[blocks, *rest]``."""
        rest = statistic.shape[len(target) :]
        lead = (1,) * (len(target) - self.index.dim()) + tuple(self.index.shape)
        reduced = [dim for dim, size in enumerate(target) if lead[dim] == 1 and size > 1]
        if reduced:
            statistic = statistic.sum(reduced, keepdim=True)
        flat = statistic.reshape((-1, *rest))
        if self.ordered:
            return flat
        return flat.new_zeros((self.blocks, *rest)).index_add(0, self.index.reshape(-1), flat)


@dataclass(frozen=True)
class MStep:
    """One closed-form maximisation: everything a family needs for it.

    Attributes:
        argument: which argument the global stands in.
        arguments: current arguments, un-broadcast.
        statistics: expected statistics, ``target + event``.
        target: joint batch shape of the arguments.
        selection: where the global stands.
        current: the global's value, kept where no weight reaches it.
        prior: its prior without wrappers, None where it is flat.
    """

    argument: str
    arguments: Arguments
    statistics: Statistics
    target: Size
    selection: Selection
    current: Tensor
    prior: TorchDistribution | None

    def pull(self, statistic: Tensor) -> Tensor:
        """Σ over the places of each block of the global."""
        rank = len(self.target)
        return self.selection.pull(statistic.expand(self.target + statistic.shape[rank:]), self.target)

    def of_prior(self, name: str) -> Tensor:
        """A parameter of the prior, laid out like the blocks of the global."""
        assert self.prior is not None
        value = getattr(self.prior, name)
        return value.expand(self.selection.shape).reshape((self.selection.blocks, *self.selection.event))

    def finish(self, blocks: Tensor, weight: Tensor) -> Tensor:
        """Blocks → the global; blocks without weight keep their value."""
        current = self.current.reshape(blocks.shape)
        known = (weight > 0).reshape(weight.shape + (1,) * (blocks.dim() - weight.dim()))
        return torch.where(known, blocks, current).reshape(self.selection.shape)


class Family(ABC):
    """An exponential family in its usual arguments.

    Attributes:
        events: argument → number of its event dimensions, for every parametrisation.
        conjugate: argument → types of prior with a closed-form posterior mode; flat is always one.
        natural: argument → its own support: a narrower support of the global has no closed form.
        whole: whether ``log_likelihood`` has all terms of the density, those without arguments included.
    """

    events: Mapping[str, int]
    conjugate: Mapping[str, tuple[type, ...]]
    natural: Mapping[str, Constraint]
    whole: bool = False

    def unrestricted(self, argument: str, support: Constraint) -> bool:
        """Whether a global of this support can take every value that the argument can."""
        support = base_support(support)
        own = self.natural[argument]
        bounds = [(getattr(c, "lower_bound", None), getattr(c, "upper_bound", None)) for c in (support, own)]
        # by type, not identity: a support that is an attribute of a model is copied with it
        same = type(support) is type(own) or {type(support), type(own)} <= HALF_LINES
        return same and bounds[0] == bounds[1]

    def arguments(self, fn: TorchDistribution) -> Arguments:
        """The arguments that ``fn`` was made from, un-broadcast."""
        given = [name for name in self.events if name in vars(fn)] or list(self.events)
        return {name: argument(fn, name, self.events[name]) for name in given}

    @abstractmethod
    def reference(self, factor: Factor, target: Size, floor: float) -> Reference:
        """Centre and least variance (``floor`` times the variance of the data), where the family has a use for them."""

    @abstractmethod
    def statistics(self, factor: Factor, target: Size, reference: Reference) -> Statistics:
        """Expected sufficient statistics Σ w t(x), ``target + event``; they add up over batches."""

    @abstractmethod
    def log_likelihood(self, arguments: Arguments, statistics: Statistics, reference: Reference) -> Tensor:
        """Σ w log f(x) from the statistics alone, scalar, nats; differentiable in the arguments."""

    @abstractmethod
    def maximise(self, step: MStep, reference: Reference) -> Tensor:
        """The value of the global that maximises its share of Q + log prior, the others held."""

    def together(self, arguments: Arguments, statistics: Statistics, reference: Reference) -> Arguments | None:
        """All arguments after :meth:`maximise` of each in turn, under flat priors; of one law, that is of target [].

        None where the family has no shorter way to it than one after the other.
        """
        return None

    @abstractmethod
    def at_floor(self, argument: str, value: Tensor, reference: Reference) -> Tensor:
        """Whether an argument ``[*batch, *event]`` stands at the least variance, ``[*batch]``."""
