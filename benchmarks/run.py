"""``make bench`` and ``make bench-quick``: every benchmark beside its peers, as one table.

    python benchmarks/run.py                     all, and writes docs/performance.md
    python benchmarks/run.py chains --quick      one section, small; writes with --write only
    python benchmarks/run.py mixtures --threads 1

A section is a module with ``lines(settings)``; a new one is one entry of SECTIONS and one block in docs/performance.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import chains
import growth
import latency
import mixtures
import sampling
import svi
import tables
from harness import HERE, Line, Settings, environment

SECTIONS: dict[str, Callable[[Settings], Iterator[Line]]] = {
    "chains": chains.lines,
    "mixtures": mixtures.lines,
    "svi": svi.lines,
    "sampling": sampling.lines,
    "latency": latency.lines,
    "growth": growth.lines,
}
EMBEDDING = "embedding"  # has a table of its own: accuracies, not times
# programs that print and write blocks of their own; only run where they are named
ALONE = ("memory", "distributed", "effective")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [*SECTIONS, EMBEDDING, *ALONE]
    parser.add_argument("sections", nargs="*", help=f"some of {', '.join(every)}; all by default")
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds, one seed")
    parser.add_argument("--threads", type=int, default=_cores(), help="of either side; default: all cores")
    parser.add_argument("--write", action=argparse.BooleanOptionalAction, default=None, help="docs/performance.md")
    given = parser.parse_args()
    for name in given.sections:
        if name not in every:
            parser.error(f"no section {name!r}: there are {', '.join(every)}")
    settings = Settings(given.quick, given.threads)
    write = not given.quick if given.write is None else given.write
    found: list[Line] = []
    print(tables.conditions(settings), tables.header(), sep="\n", flush=True)
    for name in given.sections or SECTIONS:
        if name in SECTIONS:
            found += _section(name, settings, write)
    if found:
        print(tables.summary(found))
    if not given.sections or EMBEDDING in given.sections:
        _embedding(settings, write)
    for name in (name for name in ALONE if name in given.sections):
        flags = ["--quick"] * given.quick + ["--write"] * write
        subprocess.run([sys.executable, str(HERE / f"{name}.py"), *flags], env=environment(settings), check=True)
    return int(any({"DIFFERS", "FAILED"} & set(line.verdicts) for line in found))


def _section(name: str, settings: Settings, write: bool) -> list[Line]:
    """Print the lines of a section as they come."""
    began, under, found = time.monotonic(), tables.conditions(settings), []
    for line in SECTIONS[name](settings):
        print(tables.text(line), flush=True)
        found.append(line)
    print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    if write:
        tables.write_block(name, tables.markdown(found, under))
    return found


def _embedding(settings: Settings, write: bool) -> None:
    """Digits, as a process of its own."""
    command = [sys.executable, str(HERE / "digits_embedding.py")] + ["--quick"] * settings.quick
    done = subprocess.run(command, env=environment(settings), stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout, end="", flush=True)
    if write:
        tables.write_block(EMBEDDING, f"```\n{done.stdout.rstrip()}\n```")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
