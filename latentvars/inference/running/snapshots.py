"""A run on disk while it is under way, from which it can be gone on with after a crash."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentvars.errors import SettingError, StorageError
from latentvars.inference.running.whole import Whole


@dataclass(frozen=True)
class Checkpoint:
    """Where a run is written to, and how often; ``lv.fit(..., checkpoint="run")`` is short for ``Checkpoint("run")``.

    After a pass the first process writes the globals, the weights of networks and the history, whole or not at all, in
    the place of what it wrote before. ``lv.load(path, data=rows)`` reads it, and ``lv.fit(..., resume=...)`` goes on
    from there, by any number of processes and whatever rows each of them has. The rows are not written.

    Attributes:
        path: of the folder; its parent exists.
        seconds: least time between two snapshots; 0: after every pass.
    """

    path: str | os.PathLike[str]
    seconds: float = 60.0

    def __post_init__(self) -> None:
        if not self.seconds >= 0:
            raise SettingError(f"seconds={self.seconds}", "at least 0 seconds", "write Checkpoint(path, seconds=60)")
        parent = Path(self.path).expanduser().resolve().parent
        if not parent.is_dir():
            raise StorageError(f"no folder {parent}", "a folder to write into", f"create it: mkdir -p {parent}")

    @staticmethod
    def of(given: Checkpoint | str | os.PathLike[str] | None) -> Checkpoint | None:
        """What ``checkpoint=`` says."""
        return given if given is None or isinstance(given, Checkpoint) else Checkpoint(given)


@dataclass
class Snapshots:
    """What is written of a run.

    Attributes:
        where: the folder, and how often.
        last: when the last one was written, or the run began, by the monotonic clock.
        digest: of the rows, once it is known.
    """

    where: Checkpoint
    last: float
    digest: str | None = field(default=None)

    def due(self, now: float) -> bool:
        """Whether it is time for one."""
        return now - self.last >= self.where.seconds

    def write(self, fit: Any, whole: Whole, now: float) -> None:
        """Put a fit in the place of the last snapshot."""
        if self.digest is None and not whole.shared and not whole.own.streamed:
            self.digest = whole.own.digest()
        fit.save_snapshot(Path(self.where.path), self.digest)
        self.last = now
