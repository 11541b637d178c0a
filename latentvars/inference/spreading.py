"""Starts of one fit shared out among processes, each of which has all rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from latentvars.errors import NumericalError, ProcessError
from latentvars.inference.fits.fit import Fit
from latentvars.inference.restarts import LongRuns, Work, ended, tried
from latentvars.inference.running.whole import Whole
from latentvars.starts import Start


def spread_starts(work: Work, seed: int, start: Mapping[str, Any] | Start | None) -> Fit:
    """The best of the ends that the processes find, in every process.

    Process r runs the starts r, r + P, r + 2P, ... by itself, as :func:`best_of_starts` does; then all follow the
    winner from where it began, so that each has the same fit with its history and state.

    Raises:
        ProcessError: a process is gone, or the processes have other rows.
    """
    processes, rows = work.whole.backend, work.whole.own
    if len(set(processes.gather(rows.digest()))) > 1:
        raise ProcessError(
            given="processes with other rows, which are to share out the starts",
            needed="the same rows in every process",
            remedy="write lv.Distributed() where each has rows of its own",
        )
    alone = replace(work, whole=Whole.local(rows), checkpoint=None)
    numbers = range(processes.rank, work.algorithm.restarts, processes.size)
    long = processes.together(lambda: tried(alone, seed, start, numbers))
    claims = processes.gather((long.best is not None, long.sound, long.reached))
    winner = max(range(processes.size), key=lambda rank: (*claims[rank], -rank))
    if not claims[winner][0]:
        failures = [said for said in processes.gather(str(long.failure or "")) if said]
        raise long.failure or NumericalError(f"no start came to its end: {failures[0]}")
    (values, own, history), ends = processes.gather(long.began)[winner], np.stack(processes.gather(long.ends))
    cut, shared = sum(processes.gather(len(long.cut))), processes.gather((long.tolerance, long.alone))[winner]

    def followed() -> LongRuns:
        """The same run, in a process that did not make it."""
        if winner != processes.rank:
            run = alone.run(alone.program(), values, own, None, history)
            long.best = ended(run, work.progress)
            long.reached, (long.tolerance, long.alone) = claims[winner][2], shared
        return long

    known = np.isfinite(ends)
    first = np.where(known.any(0), np.take_along_axis(ends, known.argmax(0)[None], 0)[0], np.nan)
    return processes.together(followed).finished(seed, first, cut)
