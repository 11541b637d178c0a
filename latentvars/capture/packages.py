"""Graphs compiled ahead of time by torch's inductor, kept on disk for the next process."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from latentvars.distributions import bernoulli_rows, gelu

VARIABLE = "LATENTVARS_CACHE"
FORMAT = 3  # of what is hashed, and of WRITTEN_OUT, which the hash does not see

Code = Callable[..., Any]

# operators of our own that a compiler does better to see through
WRITTEN_OUT: Mapping[Any, Code] = {
    torch.ops.latentvars.bernoulli_rows.default: bernoulli_rows.written_out,
    torch.ops.latentvars.gelu.default: gelu.written_out,
}


class NoCompiler(Exception):
    """Why nothing can be compiled here."""


def cache_folder() -> Path:
    """Where packages are kept: ``$LATENTVARS_CACHE``, or ``latentvars`` in the user's own cache folder."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "latentvars" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "latentvars"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latentvars"


def compiled(graph: GraphModule, *examples: Tensor) -> Code:
    """The function of a graph as machine code, without gradients; equal to it up to rounding.

    The first time takes a minute, which a warning announces. Packages lie in :func:`cache_folder`, by a digest of the
    operations, their constants, the release of torch, the number of threads and the machine.

    Args:
        graph: tensors → a tuple of tensors, as :func:`latentvars.capture.folded` gives it.
        examples: its arguments; the code holds for these shapes.

    Raises:
        NoCompiler: no C++ compiler, or an operation that it cannot translate.
    """
    path = cache_folder() / "graphs" / f"{digest(graph, *examples)}.pt2"
    found = _loaded(path) if path.exists() else None
    if found is not None:
        return found
    _check_compiler()
    warnings.warn(f"compiling {len(graph.graph.nodes)} operations, once on this machine: a minute", stacklevel=3)
    try:
        _compile(graph, examples, path)
    except Exception as error:
        raise NoCompiler(f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}") from error
    found = _loaded(path)
    if found is None:
        raise NoCompiler("the compiled code cannot be loaded")
    return found


def digest(graph: GraphModule, *examples: Tensor) -> str:
    """Equal for graphs whose machine code is the same."""
    sha = hashlib.sha256()
    capability = torch.backends.cpu.get_cpu_capability()
    here = (FORMAT, torch.__version__, torch.get_num_threads(), platform.system(), platform.machine(), capability)
    forms = [(tuple(value.shape), value.stride(), str(value.dtype), str(value.device)) for value in examples]
    sha.update(repr((here, platform.processor(), forms, graph.code)).encode())
    for name, value in sorted({**dict(graph.named_buffers()), **_attributes(graph)}.items()):
        sha.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        sha.update(np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
    return sha.hexdigest()


def _attributes(graph: GraphModule) -> dict[str, Tensor]:
    """Constants that recording has put beside the buffers."""
    found = {}
    for node in graph.graph.nodes:
        value = getattr(graph, str(node.target), None) if node.op == "get_attr" else None
        if isinstance(value, Tensor):
            found[str(node.target)] = value
    return found


def _check_compiler() -> None:
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler

        get_cpp_compiler()
    except Exception as error:
        raise NoCompiler("no C++ compiler was found (install g++ or clang, or name it in CXX)") from error


def _compile(graph: GraphModule, examples: tuple[Tensor, ...], path: Path) -> None:
    """Write the package, whole or not at all."""
    import torch._inductor

    path.parent.mkdir(parents=True, exist_ok=True)
    inductor: Any = torch._inductor
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        exported = torch.export.export(graph, examples)
        if any(node.target in WRITTEN_OUT for node in graph.graph.nodes):
            exported = exported.run_decompositions(dict(WRITTEN_OUT))
        made = inductor.aoti_compile_and_package(exported, package_path=str(Path(folder) / "made.pt2"))
        os.replace(made, path)


def _loaded(path: Path) -> Code | None:
    """The code of a package; None where it is broken, or of another torch."""
    import torch._inductor

    inductor: Any = torch._inductor
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runner: Any = inductor.aoti_load_package(str(path)).loader.run
    except Exception:
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def run(*arguments: Tensor) -> list[Tensor]:
        return runner(list(arguments))

    return run
