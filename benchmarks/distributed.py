"""What communication costs: an all-reduce of contributions measured over processes, and modelled for many machines.

    python benchmarks/distributed.py              two gloo processes of this machine
    python benchmarks/distributed.py --write      also writes docs/performance.md

Measured is ``Processes.sum``, as a pass of EM calls it (header, flattening and rebuilding included), on statistics of
several sizes; the fit is ``latency + bytes / bandwidth``. An all-reduce of n bytes over P machines takes, with latency
α and bandwidth β of a link (Thakur, Rabenseifner & Gropp 2005),

    tree:  2 ⌈log₂ P⌉ (α + n / β)                 ring:  2 (P − 1) α + 2 (P − 1) / P · n / β

and the better one is taken. α and β are assumed, 25 µs and 1.2 GB/s as of a 10 Gbit Ethernet; ``--latency`` and
``--bandwidth`` put in others. The latency that was measured here is added to each sum: it is our work, not a wire's.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)  # numbers
NODES = (2, 8, 32, 128, 1_000)
ROUNDS = 30
MODELS = (
    ("mixture, K=5, D=2, full", 5 * (1 + 2 + 3)),
    ("chain, K=50, D=8, full", 50 * (50 + 1 + 8 + 36)),
    ("mixture, K=100, D=100, full", 100 * (1 + 100 + 5050)),
    ("VAE 784-400-20 (SVI)", 652_824),
)


@dataclass(frozen=True)
class Total:
    """A contribution of the size that is asked for."""

    objective: float
    statistics: dict[str, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--latency", type=float, default=25e-6, help="of a link, seconds")
    parser.add_argument("--bandwidth", type=float, default=1.2e9, help="of a link, bytes a second")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--write", action="store_true", help="docs/performance.md")
    given = parser.parse_args()
    if "RANK" in os.environ:
        return worked(5 if given.quick else ROUNDS)
    times = measured(given.processes, given.quick)
    said = report(times, given.processes, given.latency, given.bandwidth)
    print(said)
    if given.write:
        from tables import write_block

        write_block("distributed", f"```\n{said}\n```")
    return None


def measured(processes: int, quick: bool) -> dict[int, float]:
    """Median seconds of a sum, by the number of its numbers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__] + ["--quick"] * quick
    running = [
        subprocess.Popen(command, env={**os.environ, **common, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(processes)
    ]
    said = [process.communicate()[0] for process in running]
    return {int(size): seconds for size, seconds in json.loads(said[0].splitlines()[-1]).items()}


def worked(rounds: int) -> None:
    """In every process: the sums."""
    from latentvars.inference.running.backend import Word
    from latentvars.inference.running.distributed import Distributed

    torch.set_num_threads(1)
    backend, found = Distributed(timeout=120).joined(), {}
    for size in SIZES:
        total = Total(1.0, {"a": torch.rand(size // 2, dtype=torch.float64), "b": torch.rand(size - size // 2)})
        seconds = []
        for number in range(rounds + 3):
            began = time.perf_counter()
            backend.sum(lambda total=total: total, Word)
            seconds += [time.perf_counter() - began] if number >= 3 else []
        found[size] = statistics.median(seconds)
    print(json.dumps(found))


def fitted(times: dict[int, float]) -> tuple[float, float]:
    """Latency, s, and bandwidth, bytes a second, by least squares of relative errors."""
    size, seconds = 8.0 * np.array(list(times)), np.array(list(times.values()))
    design = np.stack([np.ones_like(size), size], 1) / seconds[:, None]
    latency, slope = np.linalg.lstsq(design, np.ones_like(size), rcond=None)[0]
    return max(latency, 0.0), 1 / slope


def all_reduce(size: float, nodes: int, latency: float, bandwidth: float) -> tuple[float, str]:
    """Seconds of the better way, and its name."""
    tree = 2 * math.ceil(math.log2(nodes)) * (latency + size / bandwidth)
    ring = 2 * (nodes - 1) * latency + 2 * (nodes - 1) / nodes * size / bandwidth
    return min((tree, "tree"), (ring, "ring"))


def report(times: dict[int, float], processes: int, latency: float, bandwidth: float) -> str:
    """The measurements, their fit, and the model."""
    own, speed = fitted(times)
    lines = [f"measured, {processes} gloo processes on one machine ({os.cpu_count()} cores):"]
    for size, seconds in times.items():
        model = own + 8 * size / speed
        lines.append(f"  {size:>9,} numbers  {1e3 * seconds:>8.3f} ms   fit {1e3 * model:>8.3f} ms")
    lines += [
        f"  fit: {1e6 * own:.0f} µs + bytes / {speed / 1e9:.2f} GB/s",
        "",
        f"modelled, ms a pass, links of {1e6 * latency:.0f} µs and {bandwidth / 1e9:.1f} GB/s, "
        f"and {1e6 * own:.0f} µs of our own for each sum:",
        f"  {'statistics':<28} {'numbers':>9} " + "".join(f"{nodes:>12,}" for nodes in NODES),
    ]
    for name, size in MODELS:
        cells = [all_reduce(8 * size, nodes, latency, bandwidth) for nodes in NODES]
        shown = "".join(f"{1e3 * (seconds + own):>7.2f} {way}" for seconds, way in cells)
        lines.append(f"  {name:<28} {size:>9,} {shown}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
