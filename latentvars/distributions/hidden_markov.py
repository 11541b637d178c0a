"""Hidden Markov chains with the states summed out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor

from latentvars.contract import Factor
from latentvars.distributions import chain, chain_operators
from latentvars.distributions.chain_evidence import log_evidence
from latentvars.distributions.chain_posterior import ChainPosterior
from latentvars.distributions.log_space import only_known
from latentvars.distributions.mixture import Mixture
from latentvars.distributions.normal_blocks import is_recorded
from latentvars.distributions.normal_scores import component_log_prob
from latentvars.distributions.observed_chain import observed_evidence
from latentvars.distributions.operators import is_plain
from latentvars.distributions.shapes import check_count, check_expand, join_batch_shapes
from latentvars.distributions.soft_categorical import SoftCategorical
from latentvars.errors import ShapeError, SupportError


@final
class HiddenMarkov(TorchDistribution):
    """p(x_1..T) = Σ_z π(z_1) Π_{t>1} A(z_t−1, z_t) Π_t f(x_t | z_t), states summed out (Rabiner 1989, eq. 17).

    π is the law of the *first* state: no transition comes before the first emission (Pyro's ``DiscreteHMM`` and
    ``GaussianHMM`` apply one, so their initial law is another quantity: ours is theirs times A).

    Args:
        initial: ``[..., K]``, π on the simplex; zeros are allowed.
        transition: ``[..., K, K]``, A, rows (from) on the simplex; zeros are allowed. With ``moving``
            ``[..., T-1, K, K]``, of the move out of each step.
        emission: distribution of batch shape ``[..., K]`` and any event shape E (a Mixture or Product included). With
            ``emitting`` ``[..., T, K]``, of each step.
        lengths: ``[...]`` int64, steps of each sequence, at least 1; steps past it have no effect whatever they
            hold. None: all steps of the value count.
        steps: T of samples and of ``event_shape``; default: the longest of ``lengths``, else 1.
        local: name of the latent path.
        moving: whether each step has a transition of its own.
        emitting: whether each step has an emission of its own.
        validate_args: whether to check parameters and lengths.

    Values are ``[..., T, *E]``; T of a value that is scored is the value's own. The parts stay as they were given when
    the distribution is expanded (a plate): densities are computed by broadcasting.

    Raises:
        ShapeError: parts that differ in K or do not broadcast; lengths below 1 or beyond the value's steps.
    """

    def __init__(
        self,
        initial: Tensor,
        transition: Tensor,
        emission: TorchDistribution,
        lengths: Tensor | None = None,
        steps: int | None = None,
        local: str = "z",
        moving: bool = False,
        emitting: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        states = initial.shape[-1]
        check_count("rows of the transition matrix", transition.shape[-2], states, "give [K, K] with K of initial")
        check_count("columns of the transition matrix", transition.shape[-1], states, "give [K, K] with K of initial")
        groups = emission.batch_shape[-1] if emission.batch_shape else 0
        check_count("the last batch dimension of the emission", groups, states, "batch it over the states")
        shapes = {
            "initial": initial.shape[:-1],
            "transition": transition.shape[: -2 - moving],
            "emission": emission.batch_shape[: -1 - emitting],
            "lengths": () if lengths is None else lengths.shape,
        }
        self.initial, self.transition, self.emission = initial, transition, emission
        self.lengths, self.local, self.states = lengths, local, states
        self.moving, self.emitting = moving, emitting
        self.known: Tensor | None = None
        given = emission.batch_shape[-2] if emitting else transition.shape[-3] + 1 if moving else None
        event_shape = Size([_horizon(lengths, given if steps is None else steps)]) + emission.event_shape
        super().__init__(join_batch_shapes("a HiddenMarkov", shapes), event_shape, validate_args=validate_args)
        if self._validate_args and lengths is not None and bool((lengths < 1).any()):
            raise ShapeError(
                given=f"a sequence of length {int(lengths.min())}",
                needed="at least one step in every sequence",
                remedy="leave empty sequences out",
            )

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {"initial": constraints.simplex, "transition": constraints.simplex}

    @property
    def support(self) -> constraints.Constraint:
        """The support of the emission at every step."""
        support: Any = self.emission.support
        return constraints.independent(support, 1 + len(self.emission.event_shape) - support.event_dim)

    def expand(self, batch_shape: tuple[int, ...], _instance: HiddenMarkov | None = None) -> HiddenMarkov:
        batch_shape = Size(batch_shape)
        check_expand("a HiddenMarkov", self.batch_shape, batch_shape)
        new = _instance or HiddenMarkov.__new__(HiddenMarkov)
        new.initial, new.transition, new.emission = self.initial, self.transition, self.emission
        new.lengths, new.local, new.states = self.lengths, self.local, self.states
        new.moving, new.emitting = self.moving, self.emitting
        new.known = self.known
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def map_parts(self, change: Callable[[TorchDistribution], TorchDistribution]) -> HiddenMarkov:
        """The chain with a changed emission."""
        parts = (self.initial, self.transition, change(self.emission))
        settings = (self.lengths, self.event_shape[0], self.local, self.moving, self.emitting)
        changed = HiddenMarkov(*parts, *settings, validate_args=False)
        changed.known = self.known
        return changed.expand(self.batch_shape)

    @property
    def labels(self) -> int:
        """K."""
        return self.states

    def given(self, known: Tensor) -> HiddenMarkov:
        """p(x_1..T, z_t = known_t where it is known), the other states summed out; samples are not affected.

        Args:
            known: ``[..., T]`` int64, −1 where the state is not known, as past the length.
        """
        new = self.expand(self.batch_shape)
        new.known = known
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x_1..T), nats, ``[...]``; gradients as :func:`latentvars.distributions.chain_evidence.log_evidence`."""
        found = self._observed(value)
        if found is not None:
            return found
        log_emission, _ = self._log_emission(value)
        return log_evidence(self.initial, self.transition, log_emission, self.lengths, self.moving)

    def _observed(self, value: Tensor) -> Tensor | None:
        """The same without a table of densities, where the core can do that."""
        dims = len(self.emission.event_shape)
        lead = value.dim() - dims - 1
        one_law = not (self.moving or self.emitting) and len(self.emission.batch_shape) == 1 and self.known is None
        if lead < 0 or not one_law:
            return None
        self._is_ragged(value.shape[lead])
        value = value.expand(torch.broadcast_shapes(value.shape[:lead], self.batch_shape) + value.shape[lead:])
        return observed_evidence(self.initial, self.transition, self.emission, self.lengths, value)

    def posterior(self, value: Tensor) -> ChainPosterior:
        """p(z_1..T | x): smoothed and pairwise marginals, Viterbi path, path draws, entropy."""
        log_emission, valid = self._log_emission(value)
        lengths = None if valid is None else self.lengths
        return ChainPosterior(self.initial, self.transition, log_emission, lengths, self.moving)

    def factors(self, value: Tensor, weights: Tensor) -> dict[str, Factor]:
        """Expected complete-data factors (Baum-Welch), with the posterior of the path held fixed (detached).

        Args:
            value: ``[..., T, *E]``.
            weights: row weights, broadcastable to ``[...]``.

        Returns:
            ``"initial"``: counts p(z_1 | x) ``[..., K]``; ``"transition"``: expected transitions ``[..., K, K]``
            (of each step ``[..., T-1, K, K]`` where it is ``moving``);
            ``"emission"``: x as ``[..., T, 1, *E]`` with the weights w p(z_t | x) ``[..., T, K]``, 0 past the length
            (time leads instead, ``[T, ..., 1, *E]`` and ``[T, ..., K]``, where the emission has batch dimensions
            besides the states). Their weighted log-densities plus the weighted entropy of ``posterior`` sum to the
            weighted ``log_prob``.
        """
        with torch.no_grad():
            log_emission, _ = self._log_emission(value)
            one = log_emission.new_ones(())
            posterior = chain_operators.posterior(self.initial, self._moves, log_emission, self.lengths, one)
            marginals, moves = posterior[1], self._moves * posterior[3]
            by_step = weights[..., None, None] * marginals
        initial = SoftCategorical(self.initial, validate_args=False)
        transition = SoftCategorical(self.transition, validate_args=False)
        if not self.is_shared:
            by_step = by_step.movedim(-2, 0)
        by_move = (weights[..., None, None], moves) if self.moving else (weights.unsqueeze(-1), moves.squeeze(-3))
        return {
            "initial": Factor(initial, marginals[..., 0, :], weights),
            "transition": Factor(transition, by_move[1], by_move[0]),
            "emission": Factor(self.emission, self._at_states(value), by_step),
        }

    def parts_of(self, value: Tensor) -> dict[str, Factor]:
        """The distributions and values of :meth:`factors` with unit weights, and no counts: nothing is worked out."""
        one = torch.ones((), dtype=self.initial.dtype)
        chances = {"initial": self.initial, "transition": self.transition}
        found = {
            name: Factor(SoftCategorical(probs, validate_args=False), torch.zeros_like(probs), one)
            for name, probs in chances.items()
        }
        return found | {"emission": Factor(self.emission, self._at_states(value), one)}

    def filtering(self, value: Tensor) -> Tensor:
        """p(z_t | x_1..t), ``[..., T, K]``; 0 past the length."""
        filtered, valid = self._filter(value)
        return _without_padding(filtered.states.exp(), valid)

    def predict_steps(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """One-step predictions inside the sequence.

        Returns:
            p(z_t | x_1..t-1) ``[..., T, K]`` and log p(x_t | x_1..t-1) ``[..., T]`` (nats, their sum is ``log_prob``);
            both 0 past the length.
        """
        filtered, valid = self._filter(value)
        states = filtered.states.exp()
        first = self.initial.unsqueeze(-2).expand(states[..., :1, :].shape)
        predicted = torch.cat([first, self._moved(states[..., :-1, :], self._moves)], -2)
        return _without_padding(predicted, valid), filtered.steps

    def predictive(self, value: Tensor) -> Tensor:
        """p(z_T+1 | x_1..T), the state after the last valid step, ``[..., K]``.

        Raises:
            SupportError: each step has a transition of its own, and that out of the last is not known.
        """
        _check_shared("transition", self.moving)
        filtered, _ = self._filter(value)
        return self._moved(filtered.states[..., -1, :].exp(), self.transition)

    def forecast(self, value: Tensor) -> Mixture:
        """p(x_T+1 | x_1..T), a Mixture of the emissions, batch shape ``[...]``.

        Raises:
            SupportError: each step has a transition or emission of its own, and those of T+1 are not known.
        """
        _check_shared("emission", self.emitting)
        return Mixture(self.predictive(value), self.emission, self.local, validate_args=False)

    @staticmethod
    def _moved(probs: Tensor, transition: Tensor) -> Tensor:
        """p A, ``[..., K]``; not by a matrix product, whose last bits depend on the number of rows (so on padding)."""
        return (probs.unsqueeze(-1) * transition).sum(-2)

    def sample(self, sample_shape: tuple[int, ...] = Size()) -> Tensor:
        """Draws ``[*sample_shape, *batch, T, *E]``; past the length the last valid step is repeated."""
        return self.sample_with_path(sample_shape)[1]

    def sample_with_path(self, sample_shape: tuple[int, ...] = Size()) -> tuple[Tensor, Tensor]:
        """Paths ``[*sample_shape, *batch, T]`` (−1 past the length) and their observations as :meth:`sample`."""
        with torch.no_grad():
            steps = self.event_shape[0]
            leading = Size(sample_shape) + self.batch_shape
            path = self._draw_path(leading, steps)
            if self.emitting:
                draws = self.emission.expand((*self.batch_shape, steps, self.states)).sample(Size(sample_shape))
            else:
                draws = self.emission.expand((*self.batch_shape, self.states)).sample((*sample_shape, steps))
                draws = draws.movedim(len(sample_shape), len(leading))
            axis = len(leading) + 1
            ones = (1,) * len(self.emission.event_shape)
            index = path.reshape((*path.shape, 1, *ones)).expand((*path.shape, 1, *self.emission.event_shape))
            value = draws.gather(axis, index).squeeze(axis)
            if self.lengths is None:
                return path, value
            last = self.lengths.unsqueeze(-1) - 1
            at = torch.minimum(torch.arange(steps, device=last.device), last).expand(path.shape)
            padded = value.gather(axis - 1, at.reshape(at.shape + ones).expand(value.shape))
            valid = chain.step_mask(self.lengths, steps)
            assert valid is not None
            return torch.where(valid, path, -1), padded

    def _draw_path(self, leading: Size, steps: int) -> Tensor:
        """A draw from the prior of the path, ``[*leading, T]``, not cut to the lengths."""
        initial = self.initial.expand((*leading, self.states))
        path = [torch.distributions.Categorical(initial, validate_args=False).sample()]
        for t in range(steps - 1):
            transition = chain.move(self._moves, t).expand((*leading, self.states, self.states))
            at = path[-1][..., None, None].expand((*leading, 1, self.states))
            row = transition.gather(-2, at).squeeze(-2)
            path.append(torch.distributions.Categorical(row, validate_args=False).sample())
        return torch.stack(path, -1)

    def _filter(self, value: Tensor) -> tuple[chain.Filtered, Tensor | None]:
        log_emission, valid = self._log_emission(value)
        return chain_operators.filter_states(self.initial, self._moves, log_emission, self.lengths), valid

    @property
    def is_shared(self) -> bool:
        """Whether time stands next to the states: all sequences have one emission, or each step its own."""
        return self.emitting or len(self.emission.batch_shape) == 1

    @property
    def _moves(self) -> Tensor:
        """``[..., S, K, K]``, as the kernels read it."""
        return self.transition if self.moving else self.transition.unsqueeze(-3)

    def _at_states(self, value: Tensor) -> Tensor:
        """x with the padding filled by the first step, and an axis for the states that broadcasts with the emission.

        ``[..., T, 1, *E]``, or with time leading, ``[T, ..., 1, *E]``. The filling keeps whatever the padding holds
        (NaN, values outside the support) from the emission and from its gradient.
        """
        dims = len(self.emission.event_shape)
        leading, steps = value.shape[: value.dim() - dims - 1], value.shape[value.dim() - dims - 1]
        value = value.expand(torch.broadcast_shapes(leading, self.batch_shape) + value.shape[len(leading) :])
        if self._is_ragged(steps):
            valid = self._valid(steps)
            first = value.narrow(-1 - dims, 0, 1)
            value = torch.where(valid.reshape(valid.shape + (1,) * dims), value, first)
        value = value.unsqueeze(-1 - dims)
        return value if self.is_shared else value.movedim(-2 - dims, 0)

    def _is_ragged(self, steps: int) -> bool:
        """Whether some sequence may be shorter than the value; where none is, masks would change no bit."""
        if self.lengths is None or is_recorded() or not is_plain(self.lengths):
            return self.lengths is not None
        if self._validate_args and int(self.lengths.max()) > steps:
            raise ShapeError(
                given=f"a sequence of length {int(self.lengths.max())} in a value of {steps} steps",
                needed="lengths within the steps of the value",
                remedy="pad the value to the longest sequence",
            )
        return int(self.lengths.min()) < steps

    def _valid(self, steps: int) -> Tensor:
        valid = chain.step_mask(self.lengths, steps)
        assert valid is not None
        return valid

    def _log_emission(self, value: Tensor) -> tuple[Tensor, Tensor | None]:
        """log f(x_t | z_t) ``[..., T, K]``, 0 past the length, and the mask of valid steps ``[..., T]``."""
        dims = len(self.emission.event_shape)
        if value.dim() < 1 + dims:
            raise ShapeError(
                given=f"a value of shape {list(value.shape)}",
                needed=f"[..., steps{''.join(f', {size}' for size in self.emission.event_shape)}]",
                remedy="pass one sequence per row, with an axis for time",
            )
        score = component_log_prob(self.emission, self._at_states(value))
        score = score if self.is_shared else score.movedim(0, -2)
        score = only_known(score, self.known)
        if not self._is_ragged(score.shape[-2]):
            return score, None
        valid = self._valid(score.shape[-2]).expand(score.shape[:-1])
        return torch.where(valid.unsqueeze(-1), score, 0.0), valid


def _check_shared(part: str, own: bool) -> None:
    if own:
        raise SupportError(
            given=f"a chain whose {part} is another at each step",
            needed=f"the {part} of the step to predict",
            remedy="append a step whose value is missing (NaN), with its inputs, and read the posterior there",
        )


def _without_padding(probs: Tensor, valid: Tensor | None) -> Tensor:
    return probs if valid is None else torch.where(valid.unsqueeze(-1), probs, 0.0)


def _horizon(lengths: Tensor | None, steps: int | None) -> int:
    """T of ``event_shape``; read from ``lengths`` only where they hold numbers (not while a graph is captured)."""
    if steps is not None or lengths is None:
        return steps or 1
    try:
        return int(lengths.max())
    except RuntimeError:
        return 1
