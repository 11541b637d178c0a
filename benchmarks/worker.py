"""One measurement in a fresh process: the times of some cases, or the peak memory of one side of one task.

Prints one JSON object a line: times as fields of :class:`harness.Line`, memory as ``{"bytes": ...}``.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import logging
import math
import os
import resource
import statistics
import sys
import time
from collections.abc import Mapping
from typing import Any

from harness import Call, Case, Task

PAUSE = 0.2  # seconds, after which the waiting threads of the other side's libraries have gone to sleep
SHORT = 0.05  # seconds: calls that take less are repeated for as long in their turn
KIB = 1024 if sys.platform != "darwin" else 1  # unit of ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("time", "memory"))
    parser.add_argument("section")
    parser.add_argument("numbers", help="numbers of cases, as 0,1,2")
    parser.add_argument("task", nargs="?", type=int)
    parser.add_argument("side", nargs="?", choices=("ours", "theirs"))
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    logging.disable(logging.WARNING)  # peers warn that a run of few iterations has not converged
    cases: list[Case] = importlib.import_module(given.section).cases(given.quick)
    numbers = [int(number) for number in given.numbers.split(",")]
    if given.kind == "memory":
        case = cases[numbers[0]]
        say({"bytes": memory(case, case.tasks[given.task], given.side)})
        return
    for number in numbers:
        data = cases[number].data()
        for k, task in enumerate(cases[number].tasks):
            say({"number": number, "task": k} | timed(task, data, cases[number].rounds))


def say(found: Mapping[str, Any]) -> None:
    print(json.dumps(found), flush=True)


def timed(task: Task, data: Any, rounds: int) -> dict[str, Any]:
    """Fields of a line; no times where the outcomes differ or one side failed."""
    set_threads()
    try:
        ours, theirs = task.ours(data), task.theirs(data)
        difference = task.difference(data, ours(task.first), theirs(task.first))
        if not difference <= task.tolerance:
            return {"difference": difference}
        return {"difference": difference} | interleaved(task, ours, theirs, rounds)
    except Exception as error:
        return {"note": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}


def interleaved(task: Task, ours: Call, theirs: Call, rounds: int) -> dict[str, Any]:
    """Medians over rounds in which the sides take turns at being first."""
    sides = {"ours": ours, "theirs": theirs}
    units: dict[str, list[float]] = {name: [] for name in sides}
    wholes: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in sorted(sides, reverse=bool(number % 2)):
            time.sleep(PAUSE)
            own = task.our_passes if name == "ours" else None
            unit, whole = once(task.passes, own or task.passes, sides[name])
            copies = task.copies if name == "theirs" else 1
            units[name].append(unit * copies)
            wholes[name].append(whole * copies)
    ratios = [b / a if a > 0 else float("nan") for a, b in zip(units["ours"], units["theirs"], strict=True)]
    found: dict[str, Any] = {name: statistics.median(units[name]) for name in sides}
    if found["ours"] <= 0:
        return {"note": "too short to be timed"}
    whole = statistics.median(wholes["theirs"]) / statistics.median(wholes["ours"])
    return found | {"low": min(ratios), "high": max(ratios), "whole": whole}


def once(asked: tuple[int, int] | None, passes: tuple[int, int] | None, call: Call) -> tuple[float, float]:
    """Seconds of an iteration, and of the whole call with as many iterations as were asked for."""
    gc.collect()
    if asked is None or passes is None:
        seconds = clocked(call, 1)
        again = math.ceil(SHORT / seconds) - 1
        if again > 0:
            seconds = statistics.median(clocked(call, 1) for _ in range(again))
        return seconds, seconds
    few, many = passes
    short, long = clocked(call, few), clocked(call, many)
    unit = (long - short) / (many - few)
    return unit, long + unit * (asked[1] - many)


def clocked(call: Call, iterations: int) -> float:
    began = time.perf_counter()
    call(iterations)
    return time.perf_counter() - began


def memory(case: Case, task: Task, side: str) -> float:
    """Growth of the peak resident memory by one call, in bytes.

    A first call on tiny data comes before the baseline: what is imported or compiled with it counts as imports.
    """
    prepare = task.ours if side == "ours" else task.theirs
    prepare(case.tiny())(task.first)
    set_threads()
    call = prepare(case.data())
    gc.collect()
    forget_peak()
    before = peak()
    call(task.first)
    return peak() - before


def peak() -> float:
    """Peak resident memory of this process, in bytes."""
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * KIB


def forget_peak() -> None:
    """Let the peak be what is resident now, where Linux allows it: that of making the data would hide a lower one."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as switch:
        switch.write("5")


def set_threads() -> None:
    """The threads of torch follow the environment like those of all other libraries, if it is imported."""
    if "torch" in sys.modules and "OMP_NUM_THREADS" in os.environ:
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


if __name__ == "__main__":
    main()
