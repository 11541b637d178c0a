"""Summaries as they are printed in a paper: numbers rounded by what is known of them, as text, Markdown or LaTeX."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from latentvars.errors import KindError, NameUnknownError, SettingError

if TYPE_CHECKING:
    import pandas

Format = Literal["text", "markdown", "latex"]
PLAIN = 4  # significant digits of a number without a standard deviation
ESCAPED = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}
INTERVAL = re.compile(r"(?:ci|eti|hdi)(.+)_lb")


class Summarised(Protocol):
    """What is read: a fit, a contrast."""

    def summary(self) -> pandas.DataFrame: ...


def table(
    source: Summarised | pandas.DataFrame,
    *,
    of: str | Sequence[str] | None = None,
    digits: int = 2,
    format: Format = "text",
) -> str:
    """The summary of a fit or a contrast as a table to be printed: one line for each number.

    A number is printed to the decimals that show ``digits`` significant digits of its standard deviation, and to none
    beyond the first of its Monte Carlo error; the interval likewise. Numbers without a standard deviation have four
    significant digits.

    Args:
        source: what has a ``summary()``, or a frame that one gave (with draws, interval or errors of one's own choice).
        of: globals or single numbers, as ``"loc"`` or ``"loc[0, height]"``; None: all.
        digits: significant digits of a standard deviation.
        format: ``"text"``, ``"markdown"``, or ``"latex"`` (a ``tabular`` with the rules of booktabs).

    Raises:
        SettingError: fewer than one digit, or another format.
        NameUnknownError: a number that the summary has not.
        KindError: what is no summary and has none.
    """
    if digits < 1:
        raise SettingError(f"digits={digits}", "at least 1", "write digits=2")
    if format not in get_args(Format):
        raise SettingError(f"format={format!r}", f"one of {list(get_args(Format))}", "correct format=")
    frame = chosen(_frame(source), of)
    draw = {"text": _text, "markdown": _markdown, "latex": _latex}[format]
    return draw(
        _heads(frame),
        [[str(name), *_cells(line, digits)] for name, line in zip(frame.index, frame.to_dict("records"), strict=True)],
    )


def chosen(frame: pandas.DataFrame, of: str | Sequence[str] | None) -> pandas.DataFrame:
    """The lines of some globals, or of some numbers of them, in the order of the summary.

    Raises:
        NameUnknownError: there is no such line.
    """
    if of is None:
        return frame
    wanted = [of] if isinstance(of, str) else list(of)
    names = [str(name) for name in frame.index]
    for name in wanted:
        if name not in names and not any(_site(line) == name for line in names):
            sites = list(dict.fromkeys(map(_site, names)))
            raise NameUnknownError(f"{name!r}", f"one of {sites}, or a number of them", "correct the name")
    return frame.loc[[name in wanted or _site(name) in wanted for name in names], :]


def _site(line: str) -> str:
    return line.partition("[")[0]


def _frame(source: Any) -> pandas.DataFrame:
    frame = source.summary() if hasattr(source, "summary") else source
    if not hasattr(frame, "columns") or not {"mean", "estimate"} & set(frame.columns):
        raise KindError(
            given=f"a {type(source).__name__}",
            needed="a fit, a contrast, or the frame that summary() gave",
            remedy="pass the fit",
        )
    return frame


def _percent(frame: Any) -> tuple[str, str, str] | None:
    """The columns of the interval, and its probability in percent."""
    for name in frame:
        found = INTERVAL.fullmatch(str(name))
        if found:
            return str(name), f"{str(name).removesuffix('lb')}ub", found[1]
    return None


def _heads(frame: pandas.DataFrame) -> list[str]:
    columns, point = list(frame.columns), "estimate" in frame.columns
    heads = ["", "estimate" if point else "mean"]
    heads += [("s.e." if point else "sd")] if "sd" in columns else []
    interval = _percent(columns)
    heads += [f"{interval[2]} % interval"] if interval else []
    heads += [
        head
        for column, head in (("r_hat", "R-hat"), ("ess_bulk", "ESS bulk"), ("ess_tail", "ESS tail"))
        if column in columns
    ]
    return heads


def _cells(line: Mapping[Any, Any], digits: int) -> list[str]:
    columns = list(line)
    value = float(line["estimate" if "estimate" in columns else "mean"])
    sd = float(line["sd"]) if "sd" in columns else math.nan
    shown = _rounding(value, sd, float(line["mcse_mean"]) if "mcse_mean" in columns else math.nan, digits)
    cells = [shown(value)]
    cells += [shown(sd) if sd > 0 else "–"] if "sd" in columns else []
    interval = _percent(columns)
    if interval:
        low, high = float(line[interval[0]]), float(line[interval[1]])
        cells.append("–" if math.isnan(low) or not sd > 0 else f"[{shown(low)}, {shown(high)}]")
    cells += [f"{float(line['r_hat']):.3f}"] if "r_hat" in columns else []
    cells += [f"{float(line[name]):.0f}" for name in ("ess_bulk", "ess_tail") if name in columns]
    return cells


def _rounding(value: float, sd: float, error: float, digits: int) -> Callable[[float], str]:
    """How a number is printed whose standard deviation and Monte Carlo error are these."""
    if not (math.isfinite(sd) and sd > 0):
        return lambda number: f"{number:.{PLAIN}g}"
    decimals = digits - 1 - _magnitude(sd)
    if math.isfinite(error) and error > 0:
        decimals = min(decimals, max(-_magnitude(error), -_magnitude(sd)))
    decimals = max(decimals, 0)
    return lambda number: f"{number:.{decimals}f}"


def _magnitude(number: float) -> int:
    """The power of ten of the first digit, once rounded to two: 0 of 1 … 9.9, 1 of 9.99."""
    return int(f"{number:.1e}".partition("e")[2])


def _text(heads: list[str], lines: list[list[str]]) -> str:
    widths = [max(len(line[k]) for line in [heads, *lines]) for k in range(len(heads))]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    rows = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in [heads, *lines]
    ]
    return "\n".join([rows[0], rule, *rows[1:]])


def _markdown(heads: list[str], lines: list[list[str]]) -> str:
    def row(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    return "\n".join([row(heads), row([":--", *["--:"] * (len(heads) - 1)]), *map(row, lines)])


def _latex(heads: list[str], lines: list[list[str]]) -> str:
    def words(cell: str) -> str:
        return "".join(ESCAPED.get(sign, sign) for sign in cell)

    def number(cell: str) -> str:
        return "--" if cell == "–" else f"${cell}$"

    titles = [r"$\hat{R}$" if head == "R-hat" else words(head) for head in heads]
    rows = [" & ".join([words(line[0]), *map(number, line[1:])]) for line in lines]
    body = [f"{' & '.join(titles)} \\\\", r"\midrule", *(f"{row} \\\\" for row in rows)]
    return "\n".join(
        [f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}"]
    )
