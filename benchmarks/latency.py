"""What a user waits for before anything is fitted: the import, and the first fit, in fresh processes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator

from harness import Line, Settings, environment

IMPORT = """
import json, time
began = time.perf_counter()
import torch
torch_done = time.perf_counter()
import pyro
pyro_done = time.perf_counter()
import latentvars
done = time.perf_counter()
print(json.dumps([done - began, torch_done - began, pyro_done - torch_done]))
"""

FIT = """
import json, time
import latentvars as lv
x = lv.datasets.iris().x
began = time.perf_counter()
lv.fit({model}, x, progress=False)
print(json.dumps([time.perf_counter() - began]))
"""

MIXTURE = FIT.format(model="lv.models.GaussianMixture(3)")
CHAIN = FIT.format(model="lv.models.HiddenMarkov(3, lv.emissions.Gaussian(4))")


def lines(settings: Settings) -> Iterator[Line]:
    """Medians over processes; the first of each kind warms the disk and does not count."""
    repeats = 1 if settings.quick else 5
    total, torch, pyro = medians(IMPORT, repeats, settings)
    shares = f"torch {torch:.2f} s, then Pyro {pyro:.2f} s, then all the rest {total - torch - pyro:.2f} s"
    yield Line("latency", "fresh process", "import latentvars", ours=total, limit=2.5, note=shares)
    for what, code in (("first fit: mixture", MIXTURE), ("first fit: chain", CHAIN)):
        (seconds,) = medians(code, repeats, settings)
        yield Line("latency", "iris, beyond import", what, ours=seconds, limit=1.0)


def medians(code: str, repeats: int, settings: Settings) -> list[float]:
    said(code, settings)
    return [statistics.median(column) for column in zip(*(said(code, settings) for _ in range(repeats)), strict=True)]


def said(code: str, settings: Settings) -> list[float]:
    """The list of numbers that a process prints last."""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(settings), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"a process of the latency section failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
