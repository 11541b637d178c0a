"""Label switching between draws: for each draw, the order of the labels in which all draws speak of the same thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from latentvars.capture import over_draws
from latentvars.posterior.alignment import Labels
from latentvars.posterior.latent import LatentPosterior
from latentvars.program import Program
from latentvars.rows import Batch, Rows

Method = Literal["stephens", "ecr", "pivot"]

NUMBERS = 20_000_000  # of the posterior probabilities of all draws together
LEAST = 200  # rows or steps that are compared, however many draws there are
ROUNDS = 30
TINY = 1e-12


@dataclass(frozen=True)
class Orders:
    """Of S draws.

    Attributes:
        order: ``[S, K]``: label k of the aligned draw s is what the draw calls ``order[s, k]``.
        ambiguity: ``[K, K]``: mean over draws of the posterior probability that two labels should change places; 0
            where there is no doubt, ½ where nothing tells them apart.
        swapped: ``[S]`` the largest of these probabilities in each draw, as if its labels stood as they are.
    """

    order: Tensor
    ambiguity: Tensor
    swapped: Tensor

    @property
    def moved(self) -> Tensor:
        """``[S]``: whether labels of a draw changed places."""
        return (self.order != torch.arange(self.order.shape[1])).any(1)


def label_probabilities(program: Program, rows: Rows, draws: Mapping[str, Tensor], local: str, seed: int) -> Tensor:
    """Posterior probabilities of the labels of some rows (steps of sequences) at each draw, ``[S, M, K]``.

    Args:
        program: the model.
        rows: the data, of which evenly spread ones are taken where there are many.
        draws: constrained globals ``[S, *shape]``.
        local: the discrete local.
        seed: of a guide's draws, where there are continuous locals too.
    """
    size = next(iter(draws.values())).shape[0]
    one = rows.subset(torch.arange(1)).batch(dtype=program.dtype)
    labels = _probabilities(program, {name: value[0] for name, value in draws.items()}, one, local, seed).shape[-1]
    batch = evenly(rows, max(LEAST, NUMBERS // (size * labels))).batch(dtype=program.dtype)

    def at(values: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor]:
        return (_probabilities(program, values, batch, local, seed),)

    (found,) = over_draws(program, batch, at, draws)
    if found.dim() == 4 and batch.lengths is not None:
        found = found[:, torch.arange(found.shape[2]) < batch.lengths[:, None]]
    return found.reshape(size, -1, found.shape[-1])


def _probabilities(program: Program, values: Mapping[str, Tensor], batch: Batch, local: str, seed: int) -> Tensor:
    belief = program.beliefs(values, batch, seed)[local]
    return LatentPosterior({local: [belief]}, tuple(range(len(batch)))).mean(local)


def evenly(rows: Rows, most: int) -> Rows:
    """At most some rows or steps, spread evenly over the data; at least one row."""
    size = max(1, int(len(rows) / max(1.0, rows.steps / most)))
    return rows if size >= len(rows) else rows.subset(torch.arange(size) * len(rows) // size)


def stephens(probs: Tensor, reference: Tensor) -> Orders:
    """Stephens (2000), algorithm 2: orders by which the probabilities are closest, in Kullback–Leibler divergence, to
    their own mean; the assignment of each draw is the best of all K!.

    Args:
        probs: ``[S, M, K]``.
        reference: ``[M, K]`` where the mean begins.
    """
    order = _best(_divergences(probs, reference))
    for _ in range(ROUNDS):
        reference = permuted(probs, order).mean(0)
        new = _best(_divergences(probs, reference))
        if torch.equal(new, order):
            break
        order = new
    return _orders(order, _divergences(probs, reference))


def towards(probs: Tensor, reference: Tensor) -> Orders:
    """Orders by which each draw is closest, in Kullback–Leibler divergence, to given probabilities ``[M, K]``."""
    cost = _divergences(probs, reference)
    return _orders(_best(cost), cost)


def ecr(probs: Tensor, reference: Tensor) -> Orders:
    """Equivalence classes of allocations (Papastamoulis & Iliopoulos 2010): orders by which the most probable labels
    of the rows agree most often with those of a reference, which is renewed by their majority.

    Args:
        probs: ``[S, M, K]``.
        reference: ``[M, K]`` whose most probable labels are the first reference.
    """
    labels = probs.shape[-1]
    allocated = torch.nn.functional.one_hot(probs.argmax(-1), labels).to(probs.dtype)
    chosen = torch.nn.functional.one_hot(reference.argmax(-1), labels).to(probs.dtype)
    order = _best(_disagreements(allocated, chosen))
    for _ in range(ROUNDS):
        majority = permuted(allocated, order).sum(0).argmax(-1)
        chosen = torch.nn.functional.one_hot(majority, labels).to(probs.dtype)
        new = _best(_disagreements(allocated, chosen))
        if torch.equal(new, order):
            break
        order = new
    mean = permuted(probs, order).mean(0)
    return _orders(order, _divergences(probs, mean))


def pivot(draws: Mapping[str, Tensor], labels: Labels, at: int, probs: Tensor) -> Orders:
    """Pivotal reordering (Marin, Mengersen & Robert 2005): orders by which the numbers of each label, in units of
    their spread over labels and draws, are closest to those of one draw.

    Args:
        draws: globals ``[S, *shape]``.
        labels: along which axes labels lie; globals with one such axis are compared.
        at: the draw that is the pivot.
        probs: ``[S, M, K]``, of which ambiguity is worked out.
    """
    parts = []
    for name, axes in labels.axes.items():
        if len(axes) == 1:
            value = draws[name].movedim(1 + axes[0], 1).to(torch.float64)
            value = value.reshape(*value.shape[:2], -1)
            parts.append(value / value.std((0, 1)).clamp(min=TINY))
    numbers = torch.cat(parts, -1)
    cost = (numbers[at][None, :, None] - numbers[:, None]).square().sum(-1)
    order = _best(cost)
    return _orders(order, _divergences(probs, permuted(probs, order).mean(0)))


def permuted(probs: Tensor, order: Tensor) -> Tensor:
    """``[S, M, K]`` with the labels of each draw in its order ``[S, K]``."""
    return probs.gather(2, order[:, None].expand(probs.shape))


def _divergences(probs: Tensor, reference: Tensor) -> Tensor:
    """``[S, K, K]``: −Σ_m p_s(m, j) log q(m, k), the part of the divergence that depends on giving j the name k."""
    logs = reference.clamp(min=TINY).log()
    return -torch.einsum("mk,smj->skj", logs, probs)


def _disagreements(allocated: Tensor, chosen: Tensor) -> Tensor:
    return -torch.einsum("mk,smj->skj", chosen, allocated)


def _best(cost: Tensor) -> Tensor:
    """The assignment of least cost of each draw, ``[S, K]`` (Kuhn 1955)."""
    from scipy.optimize import linear_sum_assignment

    return torch.stack([torch.as_tensor(linear_sum_assignment(one)[1]) for one in cost.numpy()])


def _orders(order: Tensor, cost: Tensor) -> Orders:
    labels = order.shape[1]
    aligned = cost.gather(2, order[:, None].expand(cost.shape))
    chance = _swap(aligned)
    identity = torch.arange(labels)
    better = (cost.diagonal(dim1=1, dim2=2).sum(1) - aligned.diagonal(dim1=1, dim2=2).sum(1)).clamp(min=0)
    moved = (order != identity).any(1)
    swapped = torch.where(moved, better.sigmoid(), 0.0)
    return Orders(order, chance.mean(0), swapped)


def _swap(cost: Tensor) -> Tensor:
    """``[S, K, K]``: probability that labels a and b should change places, 0 on the diagonal."""
    own = cost.diagonal(dim1=1, dim2=2)
    extra = cost + cost.mT - own[:, :, None] - own[:, None, :]
    chance = torch.sigmoid(-extra)
    return chance * (1 - torch.eye(cost.shape[-1], dtype=cost.dtype))
