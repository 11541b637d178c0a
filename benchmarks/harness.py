"""What every section of the benchmarks is made of: cases beside a peer, measured in processes of their own.

A case is one data set with tasks; a task is one public call of ours beside the peer's public call for the same work,
and the least ratio that is asked for. Agreement is checked before anything is timed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Outcome = Mapping[str, np.ndarray]
Call = Callable[[int], Outcome]


@dataclass(frozen=True)
class Settings:
    """How a run is made: small sizes and few repeats or not, and the threads that both sides have."""

    quick: bool
    threads: int


def largest_difference(data: Any, ours: Outcome, theirs: Outcome) -> float:
    """The largest difference of an array, relative to its largest entry."""
    worst = 0.0
    for name in ours:
        a, b = np.asarray(ours[name], float).ravel(), np.asarray(theirs[name], float).ravel()
        if a.shape != b.shape:
            return float("inf")
        worst = max(worst, float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-300)))
    return worst if np.isfinite(worst) else float("inf")


@dataclass(frozen=True)
class Task:
    """One piece of work on the data of a case.

    Attributes:
        what: the work.
        peer: who else does it.
        ours, theirs: from the data to a call, with everything done that is not to be timed.
        floor: least ratio of the peer's time to ours; None: none is set.
        reach: the ratio that would be good.
        passes: few and many iterations, whose difference is timed; None: the call itself is.
        difference: of two outcomes, relative.
        tolerance: the largest difference at which times mean anything.
        share: the largest share of the peer's peak memory; None: none is set.
        limit: most seconds of ours, whatever the peer takes; None: none is set.
        our_passes: few and many iterations of ours where the peer takes that much longer; None: as many.
        copies: runs of the peer that the work takes, one after the other, of which one is timed.
    """

    what: str
    peer: str
    ours: Callable[[Any], Call]
    theirs: Callable[[Any], Call]
    floor: float | None = None
    reach: float | None = None
    passes: tuple[int, int] | None = None
    difference: Callable[[Any, Outcome, Outcome], float] = largest_difference
    tolerance: float = 1e-9
    share: float | None = None
    limit: float | None = None
    our_passes: tuple[int, int] | None = None
    copies: int = 1

    @property
    def first(self) -> int:
        """Iterations of the shortest call."""
        return self.passes[0] if self.passes else 1


@dataclass(frozen=True)
class Case:
    """A data set with its tasks.

    Attributes:
        name: sizes, as the table has them.
        data: makes it; the same in every process.
        tiny: makes a small one of the same kind, for a first call that loads what is loaded lazily.
        tasks: what is done on it.
        rounds: interleaved runs of each side, of which medians are taken.
    """

    name: str
    data: Callable[[], Any]
    tiny: Callable[[], Any]
    tasks: tuple[Task, ...]
    rounds: int


@dataclass(frozen=True)
class Line:
    """One line of the table; times in seconds, memory in bytes, None where there is no such number.

    Attributes:
        section, case, what, peer: of what.
        ours, theirs: median time of an iteration, or of a call.
        low, high: least and largest ratio of a single round.
        whole: ratio of the whole calls with many iterations, whatever they do besides iterating.
        floor, reach: ratios asked for.
        limit: most seconds, where there is no peer.
        difference: relative, of the outcomes.
        tolerance: of the difference.
        memory: peak of ours and of the peer beyond imports and data.
        share: largest share of the peer's memory.
        note: what else is to be said; an error, if there was one.
    """

    section: str
    case: str
    what: str
    peer: str = ""
    ours: float | None = None
    theirs: float | None = None
    low: float | None = None
    high: float | None = None
    whole: float | None = None
    floor: float | None = None
    reach: float | None = None
    limit: float | None = None
    difference: float | None = None
    tolerance: float = 1e-9
    memory: tuple[float | None, float | None] = (None, None)
    share: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.theirs / self.ours if self.theirs and self.ours else None

    @property
    def memory_ratio(self) -> float | None:
        ours, theirs = self.memory
        return None if ours is None or not theirs else ours / theirs

    @property
    def verdicts(self) -> tuple[str, ...]:
        """What falls short; () where all that is asked for holds."""
        found = []
        if self.difference is not None and not self.difference <= self.tolerance:
            found.append("DIFFERS")
        if self.ours is None and not found:
            found.append("FAILED")
        if self.ours is not None and self.floor is not None and not (self.ratio or 0.0) >= self.floor:
            found.append("slower")
        if self.ours is not None and self.limit is not None and self.ours > self.limit:
            found.append("slower")
        if self.share is not None and self.memory_ratio is not None and self.memory_ratio > self.share:
            found.append("memory")
        return tuple(found)


def compared(section: str, cases: Sequence[Case], settings: Settings) -> Iterator[Line]:
    """The lines of a section whose cases are ``cases(quick)`` of the module ``section``.

    Each case is timed in a process of its own, and the memory of each side in one more; quick runs have one process for
    all times and measure memory only where a share is set.
    """
    if settings.quick:
        yield from _with_memory(section, cases, range(len(cases)), settings)
        return
    for number in range(len(cases)):
        yield from _with_memory(section, cases, [number], settings)


def _with_memory(section: str, cases: Sequence[Case], numbers: Sequence[int], settings: Settings) -> Iterator[Line]:
    open_lines = {(n, k): _asked(section, cases[n], task) for n in numbers for k, task in enumerate(cases[n].tasks)}
    for place, line in open_lines.items():
        if line.share is not None or not settings.quick:
            pair = [_memory(section, place, side, settings) for side in ("ours", "theirs")]
            open_lines[place] = replace(line, memory=(pair[0], pair[1]))
    for found in started(["time", section, ",".join(map(str, numbers))], settings):
        line = open_lines.pop((found.pop("number"), found.pop("task")))
        yield replace(line, **found)
    for line in open_lines.values():
        yield replace(line, note="its process broke off")


def _asked(section: str, case: Case, task: Task) -> Line:
    return Line(
        section,
        case.name,
        task.what,
        task.peer,
        floor=task.floor,
        reach=task.reach,
        tolerance=task.tolerance,
        share=task.share,
        limit=task.limit,
    )


def _memory(section: str, place: tuple[int, int], side: str, settings: Settings) -> float | None:
    found = list(started(["memory", section, *map(str, place), side], settings))
    return found[0]["bytes"] if found else None


def started(
    arguments: Sequence[str], settings: Settings, script: Path = HERE / "worker.py"
) -> Iterator[dict[str, Any]]:
    """What a process of a worker says, as it says it."""
    command = [sys.executable, str(script), *arguments] + ["--quick"] * settings.quick
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(settings)) as process:
        assert process.stdout is not None
        for said in process.stdout:
            if said.startswith("{"):
                yield json.loads(said)


def environment(settings: Settings) -> dict[str, str]:
    """The environment of a process with as many threads as the settings say, for every library.

    Bytecode is kept, as in any installation: without it every import compiles all of a package's text.
    """
    threads = dict.fromkeys(THREAD_VARIABLES, str(settings.threads))
    own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**own, **threads, "PYTHONWARNINGS": "ignore"}
