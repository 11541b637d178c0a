"""Fitting over several processes, on one machine or many: torch.distributed behind the face of a backend."""

from __future__ import annotations

import atexit
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from latentvars.errors import ProcessError, SettingError
from latentvars.inference.running.backend import Backend, Local, Word
from latentvars.inference.running.flattening import Layout, flatten, length, rebuild

T = TypeVar("T")
HEADER = 4  # numbers that go before a contribution: failed, laid out otherwise, interrupted, seconds
PORT = 29_500
# rank, size and address, by what starts processes; a step of SLURM has its own variables beside those of the job
LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
)


@dataclass(frozen=True)
class Place:
    """Which process this is.

    Attributes:
        rank, size: its number from 0, and how many there are.
        address: ``host:port`` where they meet.
    """

    rank: int
    size: int
    address: str


@dataclass(frozen=True)
class Distributed:
    """The processes that ``torchrun``, ``srun`` or whatever sets RANK, WORLD_SIZE and MASTER_ADDR has started.

    ``lv.fit(model, rows, algorithm, backend=lv.Distributed())`` is called by every process, with a share of the rows
    of its own (any sizes), or with ``starts=True`` with the same rows in every process. All get the same fit: point,
    history, status, log-likelihood; ``fit.rows``, ``fit.latent()`` and ``fit.row_log_likelihood`` are of the share. In
    a process that was started alone it is like no backend at all.

    A batch of EM, or of SVI as a whole, is spread over the processes: an update takes rows from each in proportion to
    its share, ``batch_size`` being their number in all processes, and no process has more than that in one batch. There
    is one all-reduce an update. Starts, plans and references come from rows of all processes: all rows where
    they are few (2 million numbers), otherwise a sample of each share. An error in one process ends all of them with an
    error; one that is gone does as soon as its connection is closed, and one that is silent after ``timeout``.

    Attributes:
        timeout: seconds after which a process that does not answer counts as gone.
        starts: whether every process has all rows, and the starts of ``restarts=`` are shared out instead.
        group: a ``torch.distributed`` process group to use; None: all processes, met by the variables above.
    """

    timeout: float = 1_800.0
    starts: bool = False
    group: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise SettingError(f"timeout={self.timeout}", "seconds above 0", "write Distributed(timeout=600)")

    def joined(self) -> Backend:
        """Meet the other processes; called by all of them.

        Raises:
            ProcessError: they do not come within the time.
        """
        if self.group is None and not dist.is_initialized():
            place = place_of(os.environ)
            if place is None or (place.size == 1 and "MASTER_ADDR" not in os.environ):
                return Local()
            self._meet(place)
        group = self.group
        if group is None and dist.get_backend() != "gloo":
            group = dist.new_group(backend="gloo", timeout=timedelta(seconds=self.timeout))
        return Processes(group, self.starts)

    def gathered(self, own: np.ndarray) -> np.ndarray:
        """What every process has of an array ``[rows, ...]``, in their order, in all of them.

        Every process calls ``lv.Distributed().gathered(lv.Embedding(fit).transform(rows))`` with its own rows.
        """
        return np.concatenate(self.joined().gather(np.asarray(own)))

    def _meet(self, place: Place) -> None:
        time = timedelta(seconds=self.timeout)
        try:
            if "RANK" in os.environ and "MASTER_PORT" in os.environ:
                dist.init_process_group("gloo", timeout=time)
            else:
                address = f"tcp://{place.address}"
                dist.init_process_group("gloo", address, timeout=time, rank=place.rank, world_size=place.size)
        except (RuntimeError, ValueError) as error:
            raise ProcessError(
                given=f"process {place.rank} of {place.size} did not meet the others at {place.address}: "
                f"{_first(error)}",
                needed="as many processes as the variables of the launcher say, all started",
                remedy="start the program with torchrun or srun, or check MASTER_ADDR, MASTER_PORT and the network",
            ) from error
        atexit.register(_leave)


def _leave() -> None:
    """Part from the others before the interpreter ends, which threads of an open group would abort."""
    if dist.is_initialized():
        with suppress(RuntimeError):
            dist.destroy_process_group()


def place_of(environment: Mapping[str, str]) -> Place | None:
    """Which process this is, by the variables of whatever started it; None where it was started alone."""
    for rank, size in LAUNCHERS:
        if rank in environment and size in environment:
            host = environment.get("MASTER_ADDR") or environment.get("SLURM_LAUNCH_NODE_IPADDR")
            host = host or _first_host(environment.get("SLURM_STEP_NODELIST", ""))
            port = environment.get("MASTER_PORT") or str(PORT + int(environment.get("SLURM_JOB_ID", "0")) % 10_000)
            return Place(int(environment[rank]), int(environment[size]), f"{host}:{port}")
    return None


def _first_host(nodes: str) -> str:
    """The first of SLURM's list of nodes, as ``node[03-05,9]``."""
    found = re.match(r"([^\[,]+)(?:\[([^\],-]+))?", nodes)
    return "localhost" if found is None else found[1] + (found[2] or "")


class Processes:
    """The processes of a run, met.

    Every exchange begins with the same all-reduce: the header, and room for a contribution of the layout that was
    agreed last. So whatever a process was about to do, one that has failed can say so, and none waits for ever.
    """

    def __init__(self, group: Any, spreads_starts: bool = False) -> None:
        self.group, self.spreads_starts = group, spreads_starts
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.layout: Layout = ()

    def joined(self) -> Processes:
        return self

    def sum(self, work: Callable[[], Any], say: Callable[[], Word]) -> tuple[Any, Word]:
        found, error, vector, layout = None, None, torch.zeros(0), None
        try:
            found = work()
            if hasattr(found, "moved_back"):  # centres of statistics of its own: others may have taken other ones
                found = found.moved_back()
            vector, layout = flatten(found)
        except Exception as failure:
            error = failure
        word = say()
        while True:
            total = self._exchanged(error, vector if layout == self.layout else None, word)
            if not total[1]:
                return rebuild(found, total[HEADER:]), Word(bool(total[2]), float(total[3]) / self.size)
            self._agree(layout)

    def together(self, work: Callable[[], T]) -> T:
        found, error = None, None
        try:
            found = work()
        except Exception as failure:
            error = failure
        self._exchanged(error, torch.zeros(length(self.layout), dtype=torch.float64), Word())
        return found  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        found: list[Any] = [None] * self.size
        with _Watched(self):
            dist.all_gather_object(found, value, group=self.group)
        return found

    def _exchanged(self, error: Exception | None, vector: Tensor | None, word: Word) -> Tensor:
        """The sum of headers and contributions; raises where a process has failed."""
        total = torch.zeros(HEADER + length(self.layout), dtype=torch.float64)
        total[0], total[1] = float(error is not None), float(vector is None)
        total[2], total[3] = float(word.interrupted), word.seconds
        if vector is not None:
            total[HEADER:] = vector
        with _Watched(self):
            dist.all_reduce(total, group=self.group)
        if total[0]:
            self._raise(error)
        return total

    def _agree(self, layout: Layout | None) -> None:
        """Take over a new layout, which must be the same everywhere."""
        found = self.gather(layout)
        if any(other != found[0] for other in found):
            raise ProcessError(
                given=f"contributions of {[None if one is None else length(one) for one in found]} numbers",
                needed="the same statistics in every process",
                remedy="call lv.fit with the same model and algorithm in every process",
            )
        assert layout is not None
        self.layout = layout

    def _raise(self, error: Exception | None) -> NoReturn:
        said = self.gather(None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        rank, text = next((rank, text) for rank, text in enumerate(said) if text is not None)
        raise ProcessError(
            given=f"process {rank} of {self.size} failed: {text}",
            needed="every process to do its share",
            remedy="correct what it reports; with checkpoint=, go on from there with resume=",
        )


class _Watched:
    """Turns what torch.distributed raises where a process is gone into an error that says so."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, RuntimeError) and not isinstance(error, ProcessError):
            raise ProcessError(
                given=f"process {self.processes.rank} of {self.processes.size} has lost another one, which was killed "
                f"or has not answered in time: {_first(error)}",
                needed="every process, until the run is done",
                remedy="look at how the others ended; with checkpoint=, start again with resume=lv.load(checkpoint)",
            ) from error


def _first(error: BaseException) -> str:
    """What an error of torch.distributed says, without where in its sources and what to ask others."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[[^\]]*\.(cc|cpp|h):\d+\] ", "", text).split(". This is")[0]
