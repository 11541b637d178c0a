"""The Python blocks of the README run, in order, in one namespace; chains by NUTS are shorter than there."""

from __future__ import annotations

import re
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
CHAINS = re.compile(r"lv\.NUTS\(draws=\d+, tune=\d+")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def test_every_block_of_the_readme_runs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    before = torch.get_rng_state()
    namespace: dict[str, object] = {"__name__": "readme"}
    text, shortened = CHAINS.subn("lv.NUTS(draws=40, tune=60", text)
    assert shortened == 1
    blocks = list(BLOCK.finditer(text))
    for block in blocks:
        line = text[: block.start(1)].count("\n")
        code = "\n" * line + block.group(1)  # errors name the line of the README
        exec(compile(code, "README.md", "exec"), namespace)
    assert len(blocks) >= 5
    assert torch.equal(before, torch.get_rng_state())
    assert namespace["vectors"].shape == (150, 2)  # type: ignore[attr-defined]
    assert namespace["fit"].optima.replicated == 10  # type: ignore[attr-defined]


def test_every_file_and_folder_that_the_readme_names_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:latentvars|examples|docs)/[\w/]*(?:\.\w+)?", text))
    assert {"latentvars/program/", "examples/demo.py"} <= named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
