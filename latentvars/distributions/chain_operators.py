"""The kernels of chains as operators of torch, with shapes for capture and a rule for vmap; the derivatives of the
evidence are in :mod:`latentvars.distributions.chain_evidence`.

Shapes as in :mod:`latentvars.distributions.chain`; probabilities, not their logs, go in, and ``lengths [...]`` instead
of a mask. On a CPU the work is done by compiled code, elsewhere by a scan in torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from latentvars.distributions import chain, chain_scan
from latentvars.distributions.log_space import log_probs
from latentvars.distributions.operators import is_plain, needs_derivatives, operator


@operator("latentvars::chain_evidence")
def evidence(initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None) -> Tensor:
    """log p(x_1..T), nats, ``[...]``."""
    from latentvars.kernels import chains

    found = chains.evidence(_chains(initial, transition, log_emission, lengths))
    return _tensor(found, log_emission.shape[:-2], log_emission)


@operator("latentvars::chain_posterior")
def posterior(
    initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log p(x) ``[...]``, and times ``weights [...]``: p(z_t | x) ``[..., T, K]`` and the slopes of log p(x) with
    respect to the initial law and the transitions of each chain, ``[..., K]`` and ``[..., S, K, K]``."""
    return _posterior(initial, transition, log_emission, lengths, weights, by_chain=True)


@operator("latentvars::chain_gradient")
def gradient(
    initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of Σ weights · log p(x) by the initial law, the transitions and the emissions, in their own shapes."""
    _, marginals, by_initial, by_transition = _posterior(
        initial, transition, log_emission, lengths, weights, by_chain=False
    )
    return by_initial.sum_to_size(initial.shape).clone(), by_transition, marginals


@operator("latentvars::chain_filter")
def filtering(
    initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`latentvars.distributions.chain.forward`."""
    from latentvars.kernels import chains

    shape, like = log_emission.shape, log_emission
    found, steps, total = chains.filtering(_chains(initial, transition, log_emission, lengths))
    states = _tensor(found, shape, like)
    if lengths is not None:  # past the length the last state is carried on
        last = torch.minimum(torch.arange(shape[-2]), lengths.expand(shape[:-2]).unsqueeze(-1) - 1)
        states = states.gather(-2, last.unsqueeze(-1).expand(shape))
    return states, _tensor(steps, shape[:-1], like), _tensor(total, shape[:-2], like)


@operator("latentvars::chain_path")
def path(initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None) -> Tensor:
    """:func:`latentvars.distributions.chain.most_likely_path`."""
    from latentvars.kernels import chains

    found = chains.viterbi(_chains(initial, transition, log_emission, lengths))
    return torch.from_numpy(found).reshape(log_emission.shape[:-1])


def filter_states(initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None) -> chain.Filtered:
    """The forward pass, by compiled code where no derivative is wanted."""
    if needs_derivatives(initial, transition, log_emission):
        return filtered_in_torch(initial, transition, log_emission, lengths)
    return chain.Filtered(*filtering(initial, transition, log_emission, lengths))


def smooth(
    filtered: chain.Filtered, transition: Tensor, log_emission: Tensor, lengths: Tensor | None
) -> chain.Smoothed:
    """The backward pass, given the forward pass, by compiled code where it can."""
    if not needs_derivatives(*filtered, transition, log_emission) and is_plain(log_emission):
        from latentvars.kernels import chains

        given = _chains(transition.new_ones(transition.shape[-1]), transition, log_emission, lengths)
        shape = log_emission.shape
        states, steps, total = (
            value.to(torch.float64).contiguous().reshape(lead).numpy()
            for value, lead in zip(filtered, ((-1, shape[-1]), (-1,), (-1,)), strict=True)
        )
        found = chains.smoothing(given, states, steps, total)
        return chain.Smoothed(*(_tensor(one, shape, log_emission) for one in found))
    valid = chain.step_mask(lengths, log_emission.shape[-2])
    return chain.backward(filtered, log_probs(transition), log_emission, valid)


def marginals(initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None) -> Tensor:
    """p(z_t | x), ``[..., T, K]``; 0 past the length."""
    if needs_derivatives(initial, transition, log_emission):
        filtered = filtered_in_torch(initial, transition, log_emission, lengths)
        return smooth(filtered, transition, log_emission, lengths).marginals
    one = log_emission.new_ones(()).expand(log_emission.shape[:-2])
    return gradient(initial, transition, log_emission, lengths, one)[2]


def draw(filtered: chain.Filtered, transition: Tensor, lengths: Tensor | None, sample_shape: torch.Size) -> Tensor:
    """:func:`latentvars.distributions.chain.draw_paths`, by compiled code where it can."""
    states = filtered.states
    if not is_plain(states):
        valid = chain.step_mask(lengths, states.shape[-2])
        return chain.draw_paths(filtered, log_probs(transition), valid, sample_shape)
    from latentvars.kernels import chains

    shape = states.shape[:-1]
    uniforms = torch.rand((*sample_shape, *shape), dtype=torch.float64)
    given = _chains(transition.new_ones(transition.shape[-1]), transition, states, lengths)
    filters = given.log_emission.astype("float64", copy=False)
    drawn = chains.drawing(given, filters, uniforms.reshape(sample_shape.numel(), -1).numpy())
    return torch.from_numpy(drawn).reshape(uniforms.shape)


def _posterior(
    initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None, weights: Tensor, by_chain: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from latentvars.kernels import chains

    batch, like = log_emission.shape[:-2], log_emission
    given = weights.detach().to(torch.float64).expand(batch).reshape(-1).numpy()
    found = chains.posterior(_chains(initial, transition, log_emission, lengths), given, by_chain)
    slopes = (*batch, *transition.shape[-3:]) if by_chain else transition.shape
    return (
        _tensor(found.total, batch, like),
        _tensor(found.marginals, log_emission.shape, like),
        _capped(found.initial_slopes, (*batch, initial.shape[-1]), like),
        _capped(found.slopes, slopes, like),
    )


def _chains(initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None) -> Any:
    from latentvars.kernels.chains import Chains

    batch, (steps, states) = log_emission.shape[:-2], log_emission.shape[-2:]
    count = prod(batch)
    emission = log_emission.detach().contiguous().reshape(count * steps, states)
    if emission.dtype not in (torch.float32, torch.float64):
        emission = emission.to(torch.float64)
    laws, law_of = _numbered(initial, 1, batch)
    moves, move_of = _numbered(transition, 3, batch)
    ends = torch.full(batch, steps) if lengths is None else lengths.expand(batch)
    begins = torch.arange(count) * steps
    return Chains(
        laws, law_of, moves, move_of, emission.numpy(), begins.numpy(), ends.reshape(-1).to(torch.int64).numpy()
    )


def _numbered(value: Tensor, event_dims: int, batch: torch.Size) -> tuple[Any, Any]:
    """The values ``[P, *event]`` float64, and which of them each row has, ``[N]``."""
    leading, event = value.shape[: value.dim() - event_dims], value.shape[value.dim() - event_dims :]
    flat = value.detach().to(torch.float64).reshape(prod(leading), *event).contiguous()
    number = torch.arange(prod(leading)).reshape(leading).expand(batch)
    return flat.numpy(), number.reshape(-1).contiguous().numpy()


def _tensor(array: Any, shape: Sequence[int], like: Tensor) -> Tensor:
    return torch.from_numpy(array).to(like.dtype).reshape(tuple(shape))


def _capped(array: Any, shape: Sequence[int], like: Tensor) -> Tensor:
    """Slopes at a probability of zero grow without bound: half the range of the dtype is enough."""
    most = torch.finfo(like.dtype).max ** 0.5
    return _tensor(array.clip(-most, most), shape, like)


# --- elsewhere than on a CPU -----------------------------------------------------------------------------------------


@evidence.operator.register_kernel("cuda")
def _(initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None) -> Tensor:
    return filtered_by_scan(initial, transition, log_emission, lengths)[0].total.clone()


@posterior.operator.register_kernel("cuda")
def _(
    initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    filtered, way = filtered_by_scan(initial, transition, log_emission, lengths)
    valid = chain.step_mask(lengths, log_emission.shape[-2])
    smoothed = way.backward(filtered, log_probs(transition), log_emission, valid)
    total, marginals, by_initial, by_transition = _weighted(filtered, smoothed, initial, transition, valid, weights)
    return total.clone(), marginals, by_initial, by_transition


@gradient.operator.register_kernel("cuda")
def _(
    initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    _, marginals, by_initial, by_transition = posterior(initial, transition, log_emission, lengths, weights)
    return by_initial.sum_to_size(initial.shape).clone(), by_transition.sum_to_size(transition.shape).clone(), marginals


@filtering.operator.register_kernel("cuda")
def _(
    initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    found, _ = filtered_by_scan(initial, transition, log_emission, lengths)
    return found.states.clone(), found.steps.clone(), found.total.clone()


@path.operator.register_kernel("cuda")
def _(initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None) -> Tensor:
    valid = chain.step_mask(lengths, log_emission.shape[-2])
    return chain.most_likely_path(log_probs(initial), log_probs(transition), log_emission, valid).clone()


def filtered_in_torch(
    initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None
) -> chain.Filtered:
    """Filtering as a differentiable function of everything, step by step."""
    valid = chain.step_mask(lengths, log_emission.shape[-2])
    return chain.forward(log_probs(initial), log_probs(transition), log_emission, valid)


def filtered_by_scan(
    initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None
) -> tuple[chain.Filtered, Any]:
    """Filtering in logarithmic depth, and the module that smooths it; step by step where x is impossible."""
    valid = chain.step_mask(lengths, log_emission.shape[-2])
    found = chain_scan.forward(log_probs(initial), log_probs(transition), log_emission, valid)
    if bool((found.total > 0.5 * chain.lowest_log(found.total.dtype)).all()):
        return found, chain_scan
    return filtered_in_torch(initial, transition, log_emission, lengths), chain


def posterior_in_torch(
    initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`posterior` as a differentiable function of everything."""
    filtered = filtered_in_torch(initial, transition, log_emission, lengths)
    valid = chain.step_mask(lengths, log_emission.shape[-2])
    smoothed = chain.backward(filtered, log_probs(transition), log_emission, valid)
    return _weighted(filtered, smoothed, initial, transition, valid, weights)


def _weighted(
    filtered: chain.Filtered,
    smoothed: chain.Smoothed,
    initial: Tensor,
    transition: Tensor,
    valid: Tensor | None,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    slopes = chain.transition_slopes(filtered, smoothed, transition, valid)
    return (
        filtered.total,
        weights[..., None, None] * smoothed.marginals,
        weights[..., None] * chain.initial_slopes(smoothed, initial),
        weights[..., None, None, None] * slopes,
    )


# --- shapes, for capture ---------------------------------------------------------------------------------------------


@evidence.operator.register_fake
def _(initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None) -> Tensor:
    return log_emission.new_empty(log_emission.shape[:-2])


@posterior.operator.register_fake
def _(
    initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, new = log_emission.shape[:-2], log_emission.new_empty
    return (
        new(batch),
        new(log_emission.shape),
        new((*batch, initial.shape[-1])),
        new((*batch, *transition.shape[-3:])),
    )


@gradient.operator.register_fake
def _(
    initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    new = log_emission.new_empty
    return new(initial.shape), new(transition.shape), new(log_emission.shape)


@filtering.operator.register_fake
def _(
    initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    new, shape = log_emission.new_empty, log_emission.shape
    return new(shape), new(shape[:-1]), new(shape[:-2])


@path.operator.register_fake
def _(initial: Tensor, transition: Tensor, log_emission: Tensor, lengths: Tensor | None) -> Tensor:
    return log_emission.new_empty(log_emission.shape[:-1], dtype=torch.int64)


# --- vmap: one more leading dimension --------------------------------------------------------------------------------


def _mapped(operator: Callable[..., Any], event_dims: tuple[int, ...]) -> Callable[..., Any]:
    def rule(info: Any, in_dims: tuple[int | None, ...], *given: Tensor | None) -> tuple[Any, Any]:
        shape = given[2]
        assert shape is not None
        rank = shape.dim() - (0 if in_dims[2] is None else 1) - event_dims[2]
        moved = [
            value if value is None else _aligned(value, at, events, rank, info.batch_size, always=place == 2)
            for place, (value, at, events) in enumerate(zip(given, in_dims, event_dims, strict=True))
        ]
        found = operator(*moved)
        return found, 0 if isinstance(found, Tensor) else (0,) * len(found)

    return rule


def _aligned(value: Tensor, at: int | None, event_dims: int, rank: int, size: int, always: bool) -> Tensor:
    """The mapped dimension in front of ``rank`` dimensions of the batch; where there is none, only ``always``."""
    if at is None and not always:
        return value
    value = value.expand(size, *value.shape) if at is None else value.movedim(at, 0)
    missing = rank - (value.dim() - 1 - event_dims)
    return value.reshape(size, *(1,) * missing, *value.shape[1:]).contiguous()


for _operator, _events in (
    (evidence, (1, 3, 2, 0)),
    (posterior, (1, 3, 2, 0, 0)),
    (filtering, (1, 3, 2, 0)),
    (path, (1, 3, 2, 0)),
):
    _operator.operator.register_vmap(_mapped(_operator, _events))


@gradient.operator.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *given: Tensor | None) -> tuple[Any, Any]:
    """Each mapped slice has a gradient of its own, also where the input is shared: it is mapped first."""
    log_emission = given[2]
    assert log_emission is not None
    rank = log_emission.dim() - (0 if in_dims[2] is None else 1) - 2
    moved = [
        value if value is None else _aligned(value, at, events, rank, info.batch_size, always=True)
        for value, at, events in zip(given, in_dims, (1, 3, 2, 0, 0), strict=True)
    ]
    found = gradient(*moved)  # type: ignore[arg-type]
    shapes = [
        value.shape if at is None else value.movedim(at, 0).shape[1:]
        for value, at in zip(given[:3], in_dims[:3], strict=True)
        if value is not None
    ]
    return tuple(one.reshape(info.batch_size, *shape) for one, shape in zip(found, shapes, strict=True)), (0, 0, 0)
