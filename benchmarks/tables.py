"""The lines of the benchmarks as text for a terminal and as blocks of ``docs/performance.md``."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from harness import Line, Settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
PACKAGES = ("latentvars", "torch", "pyro-ppl", "numpy", "hmmlearn", "scikit-learn")

COLUMNS: tuple[tuple[str, int, Callable[[Line], str]], ...] = (
    ("work", 27, lambda line: line.what),
    ("case", 36, lambda line: line.case),
    ("peer", 26, lambda line: line.peer or "–"),
    ("ours", 9, lambda line: _time(line.ours)),
    ("peer's", 9, lambda line: _time(line.theirs)),
    ("ratio", 7, lambda line: _ratio(line.ratio)),
    ("of rounds", 12, lambda line: "–" if line.low is None else f"{_ratio(line.low)}–{_ratio(line.high)}"),
    ("floor", 8, lambda line: f"≤ {line.limit:g} s" if line.limit is not None else _ratio(line.floor)),
    ("reach", 6, lambda line: _ratio(line.reach)),
    ("whole", 6, lambda line: _ratio(line.whole)),
    ("agrees", 8, lambda line: "–" if line.difference is None else f"{line.difference:.0e}"),
    ("memory", 16, lambda line: _memory(line)),
    ("holds", 0, lambda line: holds(line)),
)


def holds(line: Line) -> str:
    """Whether what is asked for holds, and the note."""
    asked = line.floor is not None or line.limit is not None or line.share is not None
    said = ", ".join(line.verdicts) or ("yes" if asked else "–")
    return f"{said} ({line.note})" if line.note else said


def header() -> str:
    return "".join(f"{name:<{width}} " for name, width, _ in COLUMNS).rstrip()


def text(line: Line) -> str:
    return "".join(f"{of(line):<{width}} " for _, width, of in COLUMNS).rstrip()


def conditions(settings: Settings) -> str:
    """Machine, releases, threads, and how busy the machine was."""
    releases = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return (
        f"{_processor()}, {os.cpu_count()} cores, {settings.threads} threads on either side, load before {load}; "
        f"Python {platform.python_version()}, {releases}{'; QUICK: small sizes, few rounds' if settings.quick else ''}"
    )


def markdown(lines: Sequence[Line], under: str) -> str:
    """A table with a summary and the conditions of the run."""
    rows = [[name for name, _, _ in COLUMNS], ["---"] * len(COLUMNS)]
    rows += [[of(line) for _, _, of in COLUMNS] for line in lines]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{summary(lines)}\n\n{table}\n\n{under}"


def summary(lines: Sequence[Line]) -> str:
    short = [line for line in lines if line.verdicts]
    return f"{len(lines)} lines, {len(short)} below what is asked for."


def write_block(section: str, content: str, page: Path = PAGE) -> None:
    """Put the content between the marks of a section, and leave the rest of the page alone."""
    begin, end = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
    whole = page.read_text()
    before, _, rest = whole.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{page.name} has no block {begin} ... {end}")
    page.write_text(f"{before}{begin}\n{content}\n{end}{after}")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _ratio(ratio: float | None) -> str:
    if ratio is None or ratio != ratio:
        return "–"
    return f"{ratio:.0f}" if ratio >= 20 or ratio == int(ratio) else f"{ratio:.2g}"


def _memory(line: Line) -> str:
    """Megabytes of both sides, and the least share asked for."""
    ours, theirs = line.memory
    if ours is None:
        return "–"
    if theirs is None:
        return f"{ours / 1e6:.0f}" if not line.peer else "–"
    asked = "" if line.share is None else f" ≤ {line.share:g} ×"
    return f"{ours / 1e6:.0f} / {theirs / 1e6:.0f}{asked}"


def _processor() -> str:
    try:
        named = [one for one in Path("/proc/cpuinfo").read_text().splitlines() if one.startswith("model name")]
    except OSError:
        named = []
    return named[0].partition(":")[2].strip() if named else platform.machine()
