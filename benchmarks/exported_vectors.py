"""Vectors of many rows, embedded and written part by part: the peak of memory of the whole process, and the time.

    python benchmarks/exported_vectors.py                  2,000,000 vectors of 64 numbers within 3 GiB
    python benchmarks/exported_vectors.py --rows 200000

Rows of 64 features stay in a .npy file; a VAE with 64 latents (trained for one pass on 20,000 of them) embeds them into
a Parquet file of float32, which is read again by blocks and compared with the vectors of some rows. Exit status 1 if
the limit is broken or a vector differs.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FEATURES = LATENTS = 64
CHUNK = 100_000
LIMIT = 3.0  # GiB
KIB = 1024 if sys.platform != "darwin" else 1  # unit of ru_maxrss


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="latentvars-vectors-") as folder:
        return worked(Path(folder), given.rows)


def worked(folder: Path, rows: int) -> int:
    """Write the rows, embed and export them, check, print."""
    import latentvars as lv

    simulate(folder / "rows.npy", rows)
    data = lv.Rows(np.load(folder / "rows.npy", mmap_mode="r"))
    model = lv.models.VAE.mlp(FEATURES, LATENTS, hidden=(128,), likelihood="gaussian")
    fit = lv.fit(model, data.subset(slice(0, min(rows, 20_000))), lv.SVI(passes=1), progress=False)
    began = time.monotonic()
    path = lv.Embedding(fit).export(data, folder / "vectors.parquet")
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB / 2**30
    wrong = differing(fit, folder / "rows.npy", path, rows)
    print(f"{rows:,} vectors of {LATENTS} numbers: {path.stat().st_size / 1e9:.2f} GB of Parquet in {seconds:.0f} s")
    print(f"peak of the process, imports included: {peak:.2f} GiB of {LIMIT:.0f} GiB; vectors that differ: {wrong}")
    return int(peak > LIMIT or wrong > 0)


def simulate(file: Path, rows: int) -> None:
    """Rows of 8 groups, some at a time."""
    noise = np.random.default_rng(0)
    centres = 2 * noise.normal(size=(8, FEATURES))
    out = np.lib.format.open_memmap(file, "w+", np.float32, (rows, FEATURES))
    for low in range(0, rows, CHUNK):
        size = min(CHUNK, rows - low)
        out[low : low + size] = centres[noise.integers(0, 8, size)] + noise.normal(size=(size, FEATURES))
    out.flush()


def differing(fit, file: Path, path: Path, rows: int) -> int:
    """How many of 1,000 vectors in the file are not those of their rows embedded alone."""
    from pyarrow import parquet

    import latentvars as lv

    at = np.sort(np.random.default_rng(1).choice(rows, 1_000, replace=False))
    expected = lv.Embedding(fit).transform(np.load(file, mmap_mode="r")[at].astype(float))
    found, low = [], 0
    for batch in parquet.ParquetFile(path).iter_batches(columns=["id", "vector"]):
        own = at[(at >= low) & (at < low + len(batch))] - low
        values = batch.column("vector").flatten().to_numpy().reshape(len(batch), -1)
        assert [batch.column("id")[int(k)].as_py() for k in own[:3]] == [str(low + k) for k in own[:3]]
        found.append(values[own])
        low += len(batch)
    assert low == rows
    return int((np.concatenate(found) != expected.astype(np.float32)).any(1).sum())


if __name__ == "__main__":
    sys.exit(main())
