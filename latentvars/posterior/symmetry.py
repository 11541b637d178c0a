"""Changes of names under which the density of a model stays what it is: of labels, and turns of factors."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from latentvars.errors import LabelSwitchingError, LatentVarsError
from latentvars.posterior.alignment import Labels, labels_of
from latentvars.posterior.axes import Axes
from latentvars.posterior.latent import LatentPosterior, has_labels
from latentvars.posterior.relabelling import Method, ecr, label_probabilities, pivot, stephens, towards
from latentvars.posterior.rotation import Factors, factors_of, procrustes
from latentvars.program import Program
from latentvars.randomness import generator
from latentvars.rows import Rows

TRIED_ROWS = 200
COMBINATIONS = 256
SAME = 1e-6  # relative difference of log densities, and of posterior probabilities
LOOKED_AT = 100  # draws, in a look at whether labels switch
CLEAR = 0.95


@dataclass(frozen=True)
class Aligned:
    """S draws in one labelling.

    Attributes:
        values: global → ``[S, *shape]``.
        orders: discrete local → ``[S, K]``.
        turns: axis of factors → ``[S, L, L]``.
        moved: local or axis → ``[S]``, whether it changed.
        clear: local or axis → ``[S]``, whether it changed beyond doubt.
        ambiguity: local → ``[K, K]``; axis → ``[]``.
    """

    values: dict[str, Tensor]
    orders: dict[str, Tensor] = field(default_factory=dict)
    turns: dict[str, Tensor] = field(default_factory=dict)
    moved: dict[str, Tensor] = field(default_factory=dict)
    clear: dict[str, Tensor] = field(default_factory=dict)
    ambiguity: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Symmetries:
    """Of the density of a model's globals and rows.

    Attributes:
        program: the model.
        rows: its data.
        labels: what can be renamed.
        factors: what can be turned; None where nothing can.
        signs: whether factors can change sign and place alone.
        why: what was looked for and not found.
    """

    program: Program
    rows: Rows
    labels: tuple[Labels, ...] = ()
    factors: Factors | None = None
    signs: bool = False
    why: str = "none is named or found by its size"

    def __bool__(self) -> bool:
        return bool(self.labels) or self.factors is not None

    @staticmethod
    def of(program: Program, rows: Rows, values: Mapping[str, Tensor]) -> Symmetries:
        """The symmetries that the axes of the globals suggest, as far as the density has them.

        Suggested are the axes that the model names in ``dims()``; where it names none, those of as many entries as the
        only discrete local has labels. Each is tried on some rows at ``values``, one draw of the globals.
        """
        if program.roles.choices or not program.space.size:
            return Symmetries(program, rows, why="globals are discrete, or there are none")
        trial = Trial.of(program, rows, values)
        dims = Axes.of(program.model, rows).names
        found, why = [], ""
        suggested = _suggested(trial, dims)
        for local, candidates in suggested.items():
            kept = next((labels for labels in candidates if trial.renames(labels)), None)
            found += [] if kept is None else [kept]
            why = why or ("" if kept else f"the density changes when the labels of {local!r} are permuted")
        factors, signs = factors_of(dims, {site.name: tuple(site.shape) for site in program.space.sites}), False
        if factors is not None and not trial.turns(factors, signs=False):
            signs = trial.turns(factors, signs=True)
            why = why or ("" if signs else f"the density changes when {factors.name!r} axes are turned")
            factors = factors if signs else None
        return Symmetries(program, rows, tuple(found), factors, signs, why or Symmetries.why)

    def align(
        self, draws: Mapping[str, Tensor], score: Tensor, method: Method, to: Mapping[str, Tensor] | None, seed: int
    ) -> Aligned:
        """Draws in one labelling.

        Args:
            draws: ``[S, *shape]``.
            score: ``[S]``, of which the largest says which draw names are taken from first.
            method: how labels are compared.
            to: a point whose names are taken for good.
            seed: of a guide's draws.
        """
        found = Aligned(dict(draws))
        at = int(score.argmax())
        for labels in self.labels:
            probs = label_probabilities(self.program, self.rows, draws, labels.local, seed)
            if to is not None:
                given = {name: value[None] for name, value in to.items()}
                reference = label_probabilities(self.program, self.rows, given, labels.local, seed)[0]
                orders = towards(probs, reference)
            elif method == "pivot":
                orders = pivot(draws, labels, at, probs)
            else:
                orders = (stephens if method == "stephens" else ecr)(probs, probs[at])
            found.values.update(reordered(found.values, labels, orders.order))
            found.orders[labels.local], found.moved[labels.local] = orders.order, orders.moved
            found.clear[labels.local], found.ambiguity[labels.local] = orders.swapped > CLEAR, orders.ambiguity
        if self.factors is not None:
            loadings = self.factors.matrix(found.values)
            reference = loadings[at] if to is None else self.factors.matrix({n: v[None] for n, v in to.items()})[0]
            turns = procrustes(loadings, reference, signs=self.signs, fixed=to is not None)
            found.values.update(self.factors.turned(found.values, turns.turn, lead=1))
            name = self.factors.name
            found.turns[name], found.moved[name], found.clear[name] = turns.turn, turns.moved, turns.moved
            found.ambiguity[name] = torch.tensor(turns.ambiguity)
        return found

    def switched(self, draws: Mapping[str, Tensor], score: Tensor, seed: int) -> dict[str, float]:
        """Local or axis → share of the draws that clearly use names differently from the rest; of evenly spread ones.

        Which draws are "the rest" is the majority: with two labels at most half can differ.
        """
        each = max(1, len(score) // LOOKED_AT)
        seen = {name: value[::each] for name, value in draws.items()}
        found = self.align(seen, score[::each], "stephens", None, seed)
        shares = {
            name: _minority(order[found.clear[name] | ~found.moved[name]]) for name, order in found.orders.items()
        }
        for name, turn in found.turns.items():
            shares[name] = _turned(turn)
        return {name: share for name, share in shares.items() if share > 0}


def one_labelling(program: Program, rows: Rows, draws: Mapping[str, Tensor], score: Tensor, seed: int) -> None:
    """Whether draws ``[S, *shape]`` of log density ``[S]`` agree about which label is which.

    Raises:
        LabelSwitchingError: some clearly do not.
    """
    found = Symmetries.of(program, rows, {name: value[0] for name, value in draws.items()})
    switched = found.switched(draws, score, seed) if found else {}
    if switched:
        shares = ", ".join(f"{share:.0%} of the draws name {name!r} otherwise" for name, share in switched.items())
        raise LabelSwitchingError(
            given=f"draws that do not agree about which label is which: {shares} than the rest",
            needed="one labelling in all draws, without which means and intervals stand for nothing",
            remedy="write lv.align(fit).fit.summary(); or lv.ordered() in the model, or check_labels=False",
        )


def _minority(order: Tensor) -> float:
    """Share of the draws whose order is not the most frequent one."""
    if not len(order):
        return 0.0
    _, counts = order.unique(dim=0, return_counts=True)
    return 1 - float(counts.max()) / len(order)


def _turned(turn: Tensor) -> float:
    """Share of the draws that are turned by more than 45 degrees, or mirrored, against the first."""
    relative = turn[0].mT @ turn
    return float((relative.diagonal(dim1=1, dim2=2).amin(1) < 0.5**0.5).double().mean())


def reordered(values: Mapping[str, Tensor], labels: Labels, order: Tensor) -> dict[str, Tensor]:
    """Globals ``[S, *shape]`` with the labels of each draw in its own order ``[S, K]``."""
    found = {}
    for name, axes in labels.axes.items():
        value = values[name]
        for axis in axes:
            shape = [1] * value.dim()
            shape[0], shape[1 + axis] = order.shape
            value = value.gather(1 + axis, order.reshape(shape).expand(value.shape))
        found[name] = value
    return found


@dataclass(frozen=True)
class Trial:
    """The density at one draw on some rows, and whether it stays the same.

    Attributes:
        program, rows: the model, and the rows it is tried on.
        values: globals ``[*shape]``.
        prior: log density of the globals, nats.
        scores: of the rows, ``[N]``, nats.
        beliefs: discrete local → probabilities ``[N, (T,) K]``.
    """

    program: Program
    rows: Rows
    values: Mapping[str, Tensor]
    prior: Tensor
    scores: Tensor
    beliefs: Mapping[str, Tensor]

    @staticmethod
    def of(program: Program, rows: Rows, values: Mapping[str, Tensor]) -> Trial:
        few = rows.subset(torch.arange(min(len(rows), TRIED_ROWS)))
        prior, scores, beliefs = _density(program, few, values)
        return Trial(program, few, values, prior, scores, beliefs)

    def renames(self, labels: Labels) -> bool:
        """Whether permuting the labels of one local permutes its beliefs and changes nothing else."""
        size = self.beliefs[labels.local].shape[-1]
        orders = [torch.arange(size).roll(1), torch.arange(size).flip(0)] if size > 2 else [torch.tensor([1, 0])]
        return all(
            self._same(labels.permuted(self.values, order), {labels.local: self.beliefs[labels.local][..., order]})
            for order in orders
        )

    def turns(self, factors: Factors, *, signs: bool) -> bool:
        """Whether turning the factors changes nothing; only their signs and places with ``signs``."""
        if signs:
            turn = torch.eye(factors.size, dtype=torch.float64).roll(1, 0)
            turn[0] *= -1
        else:
            noise = torch.randn(factors.size, factors.size, dtype=torch.float64, generator=generator(0, 41))
            turn = torch.linalg.qr(noise).Q
        return self._same(factors.turned(self.values, turn), {})

    def _same(self, values: Mapping[str, Tensor], beliefs: Mapping[str, Tensor]) -> bool:
        for site in self.program.space.sites:
            value = values[site.name]
            if not bool(site.support.check(value).all()):
                return False
            if site.restriction is not None and not _close(site.restriction.project(value), value):
                return False
        try:
            prior, scores, found = _density(self.program, self.rows, values)
        except (LatentVarsError, RuntimeError, ValueError):
            return False
        close = _close(prior, self.prior) and _close(scores, self.scores)
        return close and all(_close(found[name], expected) for name, expected in beliefs.items())


def _density(program: Program, rows: Rows, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    batch = rows.batch(dtype=program.dtype)
    with torch.no_grad():
        score = program.score(values, batch)
    beliefs = {
        name: LatentPosterior({name: [belief]}, tuple(range(len(rows)))).mean(name)
        for name, belief in program.beliefs(values, batch).items()
        if has_labels(belief)
    }
    return score.prior, score.rows, beliefs


def _close(value: Tensor, expected: Tensor) -> bool:
    scale = 1 + expected.abs().max()
    return bool(((value - expected).abs() <= SAME * scale).all())


def _suggested(trial: Trial, dims: Mapping[str, tuple[str, ...]]) -> dict[str, Iterator[Labels]]:
    """Discrete local → where its labels may lie, the most likely first."""
    names, locals_ = trial.program.space.names, tuple(trial.beliefs)
    found: dict[str, Iterator[Labels]] = {}
    for labels in labels_of(dims, names, locals_):
        found[labels.local] = iter([labels])
    if not found and len(locals_) == 1:
        found[locals_[0]] = _by_size(trial, locals_[0])
    return found


def _by_size(trial: Trial, local: str) -> Iterator[Labels]:
    """Axes with as many entries as there are labels, as many of them as can be first."""
    size = trial.beliefs[local].shape[-1]
    choices = []
    for site in trial.program.space.sites:
        axes = [k for k, length in enumerate(site.shape) if length == size]
        subsets = [part for n in range(len(axes), -1, -1) for part in itertools.combinations(axes, n)]
        choices.append([(site.name, part) for part in subsets])
    everything = itertools.islice(itertools.product(*choices), COMBINATIONS)
    for combination in sorted(everything, key=lambda one: -sum(len(part) for _, part in one)):
        axes = {name: part for name, part in combination if part}
        if axes:
            yield Labels(local, axes)
