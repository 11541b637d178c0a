"""Chains of a sampler over one flat density: nutpie does the work (Seyboldt et al., nutpie; Hoffman & Gelman 2014)."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from latentvars.capture import Potential, Way
from latentvars.errors import NumericalError
from latentvars.inference.running.interruption import Interruption
from latentvars.randomness import derive
from latentvars.threads import one_thread

NAMES = {
    "logp": "lp",
    "energy": "energy",
    "depth": "tree_depth",
    "n_steps": "n_steps",
    "step_size": "step_size",
    "mean_tree_accept": "acceptance_rate",
    "diverging": "diverging",
}
LOOK = 0.02  # seconds between looks at interrupts and the bar


@dataclass(frozen=True)
class Settings:
    """How chains run; see :class:`latentvars.NUTS`."""

    draws: int
    tune: int
    target_accept: float
    max_tree_depth: int


@dataclass(frozen=True)
class Trace:
    """What chains left behind.

    Attributes:
        free: draws after tuning ``[C, S, size]``.
        stats: ``[C, S]``.
        complete: whether all chains came to their end.
        evaluations: of the density, tuning included.
        seconds: of sampling.
    """

    free: Tensor
    stats: dict[str, Tensor]
    complete: bool
    evaluations: int
    seconds: float


class _NoDensity(Exception):
    """A point at which there is no density: the step diverges, and the chain goes on."""

    is_recoverable = True


@dataclass
class Chains:
    """Chains of one density.

    Attributes:
        potential: minus the log density and its gradient.
        begins: the first point of each chain ``[size]``.
        settings: how they run.
        evaluations, drawn: how many there were so far.
    """

    potential: Potential
    begins: Sequence[Tensor]
    settings: Settings
    evaluations: int = 0
    drawn: int = 0

    def run(self, seed: int, progress: bool | None) -> Trace:
        """All chains to their end, or to an interrupt.

        Raises:
            ImportError: nutpie is not installed.
            NumericalError: no chain made a draw.
        """
        began = time.monotonic()
        total = len(self.begins) * (self.settings.draws + self.settings.tune)
        hidden = None if progress is None else not progress
        with (
            one_thread() if self._cores > 1 else nullcontext(),
            Interruption() as interrupted,
            tqdm(total=total, disable=hidden, unit="draw") as bar,
        ):
            ended = self._all(seed, interrupted, lambda: bar.update(self.drawn - bar.n))
        found = [one for number in sorted(ended) for one in _after_tuning(ended[number])]
        if interrupted.asked and not found:
            raise KeyboardInterrupt("interrupted while chains were tuned: there are no draws yet")
        free, stats = joined(found)
        complete = free.shape[:2] == (len(self.begins), self.settings.draws)
        return Trace(free, stats, complete, self.evaluations, time.monotonic() - began)

    def _all(self, seed: int, interrupted: Interruption, tell: Callable[[], Any]) -> dict[int, Any]:
        """What each chain left behind, by its number; after an interrupt those that had begun."""
        waiting, running, ended = deque(range(len(self.begins))), {}, {}
        try:
            while (waiting or running) and not interrupted.asked:
                while waiting and len(running) < self._cores:
                    number = waiting.popleft()
                    running[number] = self._started(number, derive(seed, number))
                for number, chain in list(running.items()):
                    found = _ended(chain)
                    if found is not None:
                        ended[number] = found
                        del running[number]
                tell()
            while running:
                number, chain = running.popitem()
                ended[number] = chain.abort()
        finally:  # an error in one chain ends the others
            for chain in running.values():
                chain.cancel()
        return ended

    @property
    def _cores(self) -> int:
        """Chains at a time; Pyro's handlers serve one at a time."""
        return 1 if self.potential.way is Way.MODEL else min(len(self.begins), os.cpu_count() or 1)

    def _started(self, number: int, seed: int) -> Any:
        """A chain on its way, in a thread of its own."""
        nutpie, from_pyfunc = library()
        size, begin = self.potential.size, self.begins[number].double().numpy()
        model = from_pyfunc(
            size,
            lambda: self._log_density,
            lambda *_: self._draw,
            [np.dtype("float64")],
            [(size,)],
            ["free"],
            make_initial_point_fn=lambda _: begin,
        )
        return nutpie.sample(
            model,
            draws=self.settings.draws,
            tune=self.settings.tune,
            chains=1,
            cores=1,
            seed=seed % 2**32,
            target_accept=self.settings.target_accept,
            maxdepth=self.settings.max_tree_depth,
            progress_bar=False,
            return_raw_trace=True,
            blocking=False,
        )

    def _log_density(self, free: np.ndarray) -> tuple[float, np.ndarray]:
        self.evaluations += 1
        try:
            value, gradient = self.potential.numpy(np.array(free))
        except (RuntimeError, ValueError, ArithmeticError) as error:  # a matrix that is not positive definite, say
            raise _NoDensity(str(error)) from error
        return -float(value), np.negative(gradient, dtype=np.float64)

    def _draw(self, free: np.ndarray) -> dict[str, np.ndarray]:
        self.drawn += 1
        return {"free": np.asarray(free)}


def joined(found: Sequence[Mapping[str, np.ndarray]]) -> tuple[Tensor, dict[str, Tensor]]:
    """Draws ``[C, S, size]`` and statistics ``[C, S]``; of an interrupted run those of the chains, cut to one length,
    that keep most draws.

    Raises:
        NumericalError: no chain has a draw.
    """
    if not found:
        raise NumericalError(
            given="sampling that ended before a chain had made a draw",
            needed="at least one draw after tuning",
            remedy="start where the density is finite: start=",
        )
    lengths = [len(one["free"]) for one in found]
    each = max(lengths, key=lambda length: length * sum(other >= length for other in lengths))
    kept = [one for one in found if len(one["free"]) >= each]
    free = np.stack([one["free"][:each] for one in kept]).reshape(len(kept), each, -1)
    stats = {to: torch.from_numpy(np.stack([one[name][:each] for one in kept])) for name, to in NAMES.items()}
    return torch.from_numpy(free), stats


def _after_tuning(raw: Any) -> list[dict[str, np.ndarray]]:
    """Columns of a chain without its tuning; none where it did not come that far. A trace can be read once."""
    parts = [_columns(draws, stats) for draws, stats in zip(*raw.get_arrow_trace(), strict=True) if stats.num_rows]
    found = [{name: value[~one["tuning"]] for name, value in one.items()} for one in parts]
    return [one for one in found if len(one["free"])]


def _ended(chain: Any) -> Any:
    """What a chain left behind; None while it is on its way."""
    try:
        return chain.wait(timeout=LOOK)
    except TimeoutError:
        return None
    except RuntimeError as error:
        raise NumericalError(
            given=f"a chain that broke off: {str(error).splitlines()[0]}",
            needed="a density with derivatives wherever the chain goes",
            remedy="start elsewhere: start=, or keep the globals away from the edges by their priors",
        ) from error


def _columns(draws: Any, stats: Any) -> dict[str, np.ndarray]:
    import pyarrow

    found = {"free": np.stack(pyarrow.array(draws.column("free")).to_numpy(zero_copy_only=False))}
    for name in (*NAMES, "tuning"):
        found[name] = np.array(pyarrow.array(stats.column(name)).to_numpy(zero_copy_only=False))
    return {name: value.astype(np.int64) if value.dtype.kind == "u" else value for name, value in found.items()}


def library() -> tuple[Any, Callable[..., Any]]:
    """nutpie, and what makes a model of a Python function there."""
    try:
        import nutpie
        from nutpie.compiled_pyfunc import from_pyfunc
    except ImportError as error:
        raise ImportError("lv.NUTS needs nutpie\n  do: pip install 'latentvars[nuts]'") from error
    return nutpie, from_pyfunc
