"""Recursions of a finite hidden Markov chain in log space, over any leading batch dimensions.

Shapes: states K, steps T, ``log_initial [..., K]``, ``log_transition [..., S, K, K]`` (from, to) with S = 1 where all
steps share it, else T-1, of the move out of each step; ``log_emission [..., T, K]`` = log p(x_t | z_t), which carries
the whole batch shape. ``valid [..., T]`` (bool, None for all) is True on the steps before a sequence's length; the
first is always valid. Steps that are not valid change nothing, to the bit: quantities are carried over them, and sums
over time are taken in the order of time.

Filtered probabilities are normalised at each step, so that precision does not fall with T, and kept in logs, so that
states which contradict one another by thousands of nats lose nothing (Rabiner 1989, sections III.A and V.A;
Cappé, Moulines & Rydén 2005, section 3.2.2).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from latentvars.distributions.log_space import sum_in_order, without_infinity

# steps that are summed at once: bounds the memory, and (counted from the first step) does not depend on padding
_CHUNK = 64


class Filtered(NamedTuple):
    """The forward pass.

    Attributes:
        states: log p(z_t | x_1..t), ``[..., T, K]``; past the length: of the last valid step.
        steps: log p(x_t | x_1..t-1), ``[..., T]``; 0 past the length.
        total: log p(x_1..T), ``[...]``.
    """

    states: Tensor
    steps: Tensor
    total: Tensor


class Smoothed(NamedTuple):
    """The backward pass.

    Attributes:
        marginals: p(z_t | x), ``[..., T, K]``; 0 past the length.
        log_ahead: log p(x_t..T | z_t) / p(x_t..T | x_1..t-1), ``[..., T, K]``: what the data from t on say about z_t.
    """

    marginals: Tensor
    log_ahead: Tensor


def step_mask(lengths: Tensor | None, steps: int) -> Tensor | None:
    """``[..., T]``, True before the length; None stays None."""
    if lengths is None:
        return None
    return torch.arange(steps, device=lengths.device) < lengths.unsqueeze(-1)


def move(transition: Tensor, step: int) -> Tensor:
    """The matrix of the move out of a step, ``[..., K, K]``, of ``[..., S, K, K]``."""
    return transition[..., 0 if transition.shape[-3] == 1 else step, :, :]


def forward(log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, valid: Tensor | None) -> Filtered:
    """Filtering. Where x is impossible the total is ``-inf`` and the states are those of a chain that ignores it."""
    lowest = lowest_log(log_emission.dtype)
    moves = log_transition.clamp(min=lowest)
    emissions = log_emission.clamp(min=lowest).unbind(-2)
    raw = log_initial.clamp(min=lowest) + emissions[0]
    shift = raw.detach().amax(-1, keepdim=True)
    raw = raw - shift
    raws, shifts = [raw], [shift]
    for t in range(1, len(emissions)):
        new = torch.logsumexp(raw.unsqueeze(-1) + move(moves, t - 1), -2) + emissions[t]
        shift = new.detach().amax(-1, keepdim=True)
        new = new - shift
        raw = new if valid is None else torch.where(valid[..., t, None], new, raw)
        raws.append(raw)
        shifts.append(shift)
    stacked = torch.stack(raws, -2)
    norms = torch.logsumexp(stacked, -1)
    steps = torch.cat([norms[..., :1], norms[..., 1:] - norms[..., :-1]], -1) + torch.cat(shifts, -1)
    if valid is not None:
        steps = torch.where(valid, steps, 0.0)
    possible = steps > 0.5 * lowest
    total = sum_in_order(steps).masked_fill(~possible.all(-1), -torch.inf)
    return Filtered(stacked - norms.unsqueeze(-1), steps.masked_fill(~possible, -torch.inf), total)


def backward(filtered: Filtered, log_transition: Tensor, log_emission: Tensor, valid: Tensor | None) -> Smoothed:
    """Smoothing, given the forward pass; where x is impossible all is 0 (and its log very low)."""
    lowest = lowest_log(log_emission.dtype)
    moves = log_transition.clamp(min=lowest)
    scaled = (log_emission.clamp(min=lowest) - without_infinity(filtered.steps).unsqueeze(-1)).unbind(-2)
    behind = torch.zeros_like(scaled[-1])
    ahead, log_behind = [scaled[-1]], [behind]
    for t in range(len(scaled) - 2, -1, -1):
        new = torch.logsumexp(move(moves, t) + ahead[-1].unsqueeze(-2), -1)
        behind = new if valid is None else torch.where(valid[..., t + 1, None], new, behind)
        ahead.append(scaled[t] + behind)
        log_behind.append(behind)
    marginals = (filtered.states + torch.stack(log_behind[::-1], -2)).exp()
    possible = (filtered.total > -torch.inf)[..., None, None]
    counted = possible if valid is None else possible & valid.unsqueeze(-1)
    log_ahead = torch.where(possible, torch.stack(ahead[::-1], -2), lowest)
    return Smoothed(torch.where(counted, marginals, 0.0), log_ahead)


def lowest_log(dtype: torch.dtype) -> float:
    """Stands for log 0 inside the recursions, so that differences stay numbers: −1e231 in float64, −1e28 in float32."""
    return -(torch.finfo(dtype).max ** 0.75)


def pairwise(filtered: Filtered, smoothed: Smoothed, log_transition: Tensor, valid: Tensor | None) -> Tensor:
    """p(z_t, z_t+1 | x), ``[..., T-1, K, K]``; 0 where t+1 is past the length."""
    joint = filtered.states[..., :-1, :, None] + smoothed.log_ahead[..., 1:, None, :]
    probs = (joint + log_transition).exp()
    return probs if valid is None else torch.where(valid[..., 1:, None, None], probs, 0.0)


def transition_slopes(filtered: Filtered, smoothed: Smoothed, transition: Tensor, valid: Tensor | None) -> Tensor:
    """∂ log p(x) / ∂A_ij = Σ_t p(z_t=i | x_1..t) p(x_t+1..T | z_t+1=j) / p(x_t+1..T | x_1..t), ``[..., S, K, K]``.

    The sum is over the steps that share A; there is none where each step has its own.

    Times A_ij it is the expected number of transitions i → j. It is defined where A_ij = 0 as well; there it is capped
    (at 1e154 in float64, 1e19 in float32), since it grows without bound as the forbidden path becomes the likelier one.
    """
    cap = _slope_cap(transition)
    states, ahead = filtered.states[..., :-1, :, None], smoothed.log_ahead[..., 1:, None, :]
    counted = None if valid is None else valid[..., 1:, None, None]
    if cap.shape[-3] != 1:
        slopes = torch.minimum(states + ahead, cap).exp()
        return slopes if counted is None else torch.where(counted, slopes, 0.0)
    total = torch.zeros_like(filtered.states[..., 0, :, None] + cap[..., 0, :, :])
    for start in range(0, states.shape[-3], _CHUNK):
        chunk = slice(start, start + _CHUNK)
        slopes = torch.minimum(states[..., chunk, :, :] + ahead[..., chunk, :, :], cap).exp()
        if counted is not None:
            slopes = torch.where(counted[..., chunk, :, :], slopes, 0.0)
        total = total + slopes.cumsum(-3)[..., -1, :, :]
    return total.unsqueeze(-3)


def initial_slopes(smoothed: Smoothed, initial: Tensor) -> Tensor:
    """∂ log p(x) / ∂π_i, ``[..., K]``; capped where π_i = 0, as :func:`transition_slopes`."""
    return torch.minimum(smoothed.log_ahead[..., 0, :], _slope_cap(initial)).exp()


def _slope_cap(probs: Tensor) -> Tensor:
    """A little above log 1/p, which no exact slope exceeds; half the range of the dtype where p is 0 or subnormal."""
    limits = torch.finfo(probs.dtype)
    half = 0.5 * torch.tensor(limits.max, dtype=probs.dtype, device=probs.device).log()
    probs = probs.detach()
    return torch.where(probs >= limits.tiny, 1.0 - probs.clamp(min=limits.tiny).log(), half)


def path_log_prob(
    path: Tensor, log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, valid: Tensor | None
) -> Tensor:
    """log p(x, z_1..T) of a path ``[..., T]``, nats, ``[...]``; entries past the length are not read."""
    path = path.long() if valid is None else torch.where(valid, path.long(), 0)
    shape = torch.broadcast_shapes(path.shape, log_emission.shape[:-1])
    path, states = path.expand(shape), log_emission.shape[-1]
    emitted = log_emission.expand((*shape, states)).gather(-1, path.unsqueeze(-1)).squeeze(-1)
    started = log_initial.expand((*shape[:-1], states)).gather(-1, path[..., :1]).squeeze(-1)
    rows = log_transition.expand((*shape[:-1], shape[-1] - 1, states, states))
    rows = rows.gather(-2, path[..., :-1, None, None].expand((*shape[:-1], shape[-1] - 1, 1, states))).squeeze(-2)
    moved = rows.gather(-1, path[..., 1:, None]).squeeze(-1)
    if valid is not None:
        emitted = torch.where(valid, emitted, 0.0)
        moved = torch.where(valid[..., 1:], moved, 0.0)
    return started + sum_in_order(emitted) + sum_in_order(moved)


def most_likely_path(log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, valid: Tensor | None) -> Tensor:
    """argmax_z log p(x, z), ``[..., T]`` int64, −1 past the length (Viterbi 1967); ties go to the lower state."""
    emissions = log_emission.unbind(-2)
    score = log_initial + emissions[0]
    stay = torch.arange(score.shape[-1], device=score.device).expand(score.shape)
    origins = []
    for t in range(1, len(emissions)):
        best, origin = (score.unsqueeze(-1) + move(log_transition, t - 1)).max(-2)
        new = best + emissions[t]
        new = new - without_infinity(new.amax(-1, keepdim=True))
        if valid is not None:
            new = torch.where(valid[..., t, None], new, score)
            origin = torch.where(valid[..., t, None], origin, stay)
        score = new
        origins.append(origin)
    path = [score.argmax(-1)]
    for origin in reversed(origins):
        path.append(origin.gather(-1, path[-1].unsqueeze(-1)).squeeze(-1))
    return _without_padding(torch.stack(path[::-1], -1), valid)


def draw_paths(filtered: Filtered, log_transition: Tensor, valid: Tensor | None, sample_shape: torch.Size) -> Tensor:
    """Exact draws from p(z_1..T | x), ``[*sample_shape, ..., T]``, −1 past the length (filter forward, draw back)."""
    states = filtered.states.expand(sample_shape + filtered.states.shape)
    count, steps = states.shape[-1], states.shape[-2]
    state = _draw(states[..., -1, :])
    path = [state]
    for t in range(steps - 2, -1, -1):
        matrix = move(log_transition, t).expand((*states.shape[:-2], count, count))
        into = matrix.gather(-1, state[..., None, None].expand((*states.shape[:-2], count, 1))).squeeze(-1)
        logits = states[..., t, :] + into
        drawn = _draw(logits)
        # past the length the filtered state is carried, so the first draw stays the one of the last valid step
        state = drawn if valid is None else torch.where(valid[..., t + 1], drawn, state)
        path.append(state)
    return _without_padding(torch.stack(path[::-1], -1), valid)


def _draw(logits: Tensor) -> Tensor:
    return torch.distributions.Categorical(logits=logits, validate_args=False).sample()


def _without_padding(path: Tensor, valid: Tensor | None) -> Tensor:
    return path if valid is None else torch.where(valid, path, -1)
