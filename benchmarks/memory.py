"""Rows that stay in their file: the peak of memory beyond imports, and the time of a pass.

    python benchmarks/memory.py              8 GB of rows within 2 GiB, in a temporary folder
    python benchmarks/memory.py --quick      1 GB within 512 MiB
    python benchmarks/memory.py --write      also writes docs/performance.md

A mixture of 4 components with diagonal covariances is fitted to float64 rows of 20 features by EM and by SVI, each in
a process of its own, from k-means++ groups of a sample; then all rows are embedded, but for full sizes the first 10 %.
``budget`` is ``memory=``, ``peak`` is ``ru_maxrss`` less what it was after imports. Exit status 1 if a limit is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FEATURES = 20
CHUNK = 200_000  # rows written at a time
KIB = 1024 if sys.platform != "darwin" else 1  # unit of ru_maxrss
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Size:
    """How much, and within what."""

    rows: int
    limit: int
    budget: int
    embedded: int

    @property
    def bytes(self) -> int:
        return self.rows * FEATURES * 8


QUICK = Size(6_250_000, 512 * MEBIBYTE, 128 * MEBIBYTE, 200_000)
FULL = Size(50_000_000, 2048 * MEBIBYTE, 512 * MEBIBYTE, 5_000_000)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1 GB within 512 MiB")
    parser.add_argument("--write", action="store_true", help="docs/performance.md")
    parser.add_argument("--work", nargs=2, metavar=("WHAT", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    size = QUICK if given.quick else FULL
    if given.work:
        print(json.dumps(worked(given.work[0], Path(given.work[1]), size)))
        return 0
    folder = Path(tempfile.mkdtemp(prefix="latentvars-memory-"))
    try:
        return measured(folder, size, given.quick, given.write)
    finally:
        shutil.rmtree(folder)


def measured(folder: Path, size: Size, quick: bool, write: bool) -> int:
    """Write the file, run the work, print the table."""
    free = shutil.disk_usage(folder).free
    if free < 1.1 * size.bytes:
        print(f"{free / 1e9:.1f} GB are free in {folder.parent}, {1.1 * size.bytes / 1e9:.1f} GB needed (set TMPDIR)")
        return 1
    file = folder / "rows.npy"
    simulate(file, size.rows)
    said = [
        f"{size.bytes / 1e9:.0f} GB of rows ({size.rows:,} × {FEATURES}, float64, .npy), "
        f"limit {size.limit / MEBIBYTE:.0f} MiB, budget {size.budget / MEBIBYTE:.0f} MiB",
        f"{'work':<22} {'peak':>9} {'seconds':>9}   ",
    ]
    broken = False
    for what in ("EM", "SVI", "embedding"):
        command = [sys.executable, __file__, "--work", what, str(file)] + ["--quick"] * quick
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        held = found["peak"] <= size.limit
        broken = broken or not held
        note = f"{found['note']}{'' if held else '; OVER THE LIMIT'}"
        said.append(f"{what:<22} {found['peak'] / MEBIBYTE:>5.0f} MiB {found['seconds']:>9.1f}   {note}")
        print(said[-1], flush=True)
    print("\n".join(said))
    if write:
        from tables import write_block

        write_block("memory", "```\n" + "\n".join(said) + "\n```")
    return int(broken)


def simulate(file: Path, rows: int) -> None:
    """Four clusters, chunk by chunk."""
    source = np.random.default_rng(1)
    centres = 3 * source.normal(size=(4, FEATURES))
    header = {"descr": "<f8", "fortran_order": False, "shape": (rows, FEATURES)}
    with file.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, header)
        for low in range(0, rows, CHUNK):
            own = centres[source.integers(4, size=min(CHUNK, rows - low))]
            out.write((own + source.normal(size=own.shape)).tobytes())


def worked(what: str, file: Path, size: Size) -> dict[str, Any]:
    """One piece of work in this process."""
    import latentvars as lv

    model = lv.models.GaussianMixture(4, covariance="diag")
    tiny = np.random.default_rng(0).normal(size=(2_000, FEATURES))
    algorithms: dict[str, Any] = {
        "EM": lv.EM(passes=3, memory=size.budget, stop=lv.Never()),
        "SVI": lv.SVI(passes=1, batch_size=50_000, memory=size.budget, guide=lv.Delta()),
        "embedding": lv.EM(passes=1, memory=size.budget),
    }
    algorithm = algorithms[what]
    first = lv.fit(model, tiny, algorithm, progress=False)
    lv.Embedding(first).transform(tiny[:600])
    before = peak()
    began = time.monotonic()
    if what == "embedding":
        rows, done = lv.Rows(file), 0
        for part in lv.Embedding(first, memory=size.budget).transform_parts(rows):
            done += len(part)
            if done >= size.embedded:
                break
        seconds, note = time.monotonic() - began, f"of {done:,} rows, after one pass that checks all"
        return {"peak": peak() - before, "seconds": seconds, "note": note}
    fit = lv.fit(model, lv.Rows(file), algorithm, progress=False)
    seconds, total = time.monotonic() - began, fit.log_likelihood
    each = fit.seconds / max(1, len(fit.history))
    note = f"{each:.1f} s a pass, {fit.algorithm.batch_size:,} rows a batch, {total / size.rows:.4f} nats a row"  # type: ignore[union-attr]
    return {"peak": peak() - before, "seconds": seconds, "note": note}


def peak() -> int:
    """Bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    sys.exit(main())
