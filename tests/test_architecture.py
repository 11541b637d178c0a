"""The house stands: modules import downwards only, and some rooms never meet."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "latentvars"

# From the ground up; rooms of one line may not import one another.
STOREYS: tuple[tuple[str, ...], ...] = (
    ("errors", "lazy"),
    ("kernels",),
    ("randomness", "threads"),
    ("rows",),
    ("starts",),
    ("contract",),
    ("distributions",),
    ("families",),  # a family knows the distributions whose parameters it updates
    ("program",),
    ("capture",),
    ("storage",),
    ("posterior",),
    ("models", "inference"),
    ("studies", "loading"),
    ("latent_space",),
    ("embedding",),  # whose inverse decodes
    ("plots",),
    ("report",),
    ("datasets",),
    ("cli",),
    ("__init__",),
)
# Files that belong to a room of another name.
ROOM_OF = {"emissions": "models", "__main__": "cli"}
# Walls inside what the storeys would allow.
FORBIDDEN: dict[str, frozenset[str]] = {
    "models": frozenset({"inference", "posterior"}),
    "embedding": frozenset({"inference", "models", "families", "pyro"}),
    "posterior": frozenset({"inference", "models"}),
}

# The same inside a room that is a house by itself; its files stand on floors too.
INSIDE: dict[str, tuple[tuple[str, ...], ...]] = {
    "inference": (
        ("running",),
        ("guides", "amortised"),
        ("em", "sampling"),
        ("starting", "density"),
        ("svi",),
        ("guided_em", "fits"),
        ("engine",),
        ("restarts",),
        ("spreading",),
        ("fitting",),
        ("fitter",),
        ("__init__",),
    ),
}

FLOOR = {room: number for number, storey in enumerate(STOREYS) for room in storey}
FLOOR_INSIDE = {
    house: {room: number for number, storey in enumerate(storeys) for room in storey}
    for house, storeys in INSIDE.items()
}


def room_of(parts: tuple[str, ...]) -> str:
    """The room of a module, from its path inside the package."""
    name = parts[0] if parts else "__init__"
    return ROOM_OF.get(name, name)


def inner_room(parts: tuple[str, ...]) -> str:
    """The room of a module within the house that is its room."""
    return parts[1] if len(parts) > 1 else "__init__"


def imported(tree: ast.AST, parts: tuple[str, ...], is_package: bool) -> list[tuple[int, tuple[str, ...]]]:
    """Every module that a file imports, at any depth of its code, as (line, dotted parts)."""
    found: list[tuple[int, tuple[str, ...]]] = []
    here = ("latentvars", *parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, tuple(alias.name.split("."))) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base: tuple[str, ...] = ()
            if node.level:
                base = here[: len(here) - node.level + is_package]
            base += tuple(node.module.split(".")) if node.module else ()
            if base == ("latentvars",):
                found += [(node.lineno, (*base, alias.name)) for alias in node.names]
            else:
                found.append((node.lineno, base))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            found += [(node.lineno, tuple(str(name).split("."))) for name in names[:1]]
    return found


def violations(package: Path) -> list[str]:
    """Every import that goes up, sideways or through a wall, as one line of text each."""
    wrong = []
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        parts = parts[:-1] if is_package else parts
        room = room_of(parts)
        where = file.relative_to(package)
        if room not in FLOOR:
            wrong.append(f"{where}: the room {room!r} has no floor; add it to STOREYS in tests/test_architecture.py")
            continue
        inner = inner_room(parts)
        if room in INSIDE and inner not in FLOOR_INSIDE[room]:
            wrong.append(f"{where}: the room {inner!r} of {room!r} has no floor; add it to INSIDE")
            continue
        for line, module in imported(ast.parse(file.read_text(encoding="utf-8")), parts, is_package):
            problem = judge(room, module) or judge_inside(room, inner, module)
            if problem:
                wrong.append(f"{where}:{line}: {room} ({inner}) imports {'.'.join(module)}: {problem}")
    return wrong


def judge(room: str, module: tuple[str, ...]) -> str | None:
    """Why ``room`` may not import ``module``, or None where it may."""
    if module[0] != "latentvars":
        return "there is a wall between them" if module[0] in FORBIDDEN.get(room, ()) else None
    if len(module) == 1:
        return "the package's face is for users; import the module"
    target = room_of(module[1:])
    if target in FORBIDDEN.get(room, ()):
        return "there is a wall between them"
    if target not in FLOOR:
        # a name that the package's face defines, such as __version__
        return None if room == "__init__" else f"{target!r} is no room; import from the module that defines it"
    if target != room and FLOOR[target] >= FLOOR[room]:
        return "imports go down only"
    return None


def judge_inside(house: str, room: str, module: tuple[str, ...]) -> str | None:
    """The same for two rooms of one house."""
    if house not in INSIDE or module[:2] != ("latentvars", house):
        return None
    floors, target = FLOOR_INSIDE[house], inner_room(module[1:])
    if target not in floors:
        return f"{target!r} is no room of {house!r}"
    return "imports go down only" if target != room and floors[target] >= floors[room] else None


def imported_files(file: Path, files: frozenset[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """The files of the package that a file imports by ``from latentvars... import``, as their parts."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE.name:
            base = tuple(node.module.split(".")[1:])
            for name in node.names:
                named = (*base, name.name)
                found |= {next(one for one in (named, (*named, "__init__"), base, (*base, "__init__")) if one in files)}
    return found


def test_no_files_import_one_another_in_a_circle() -> None:
    places = {file.relative_to(PACKAGE).with_suffix("").parts: file for file in PACKAGE.rglob("*.py")}
    graph = {parts: imported_files(file, frozenset(places)) for parts, file in places.items()}
    graph["rows", "overview"].remove(("rows", "rows"))  # in annotations only: rows have an overview, which holds rows
    tuple(TopologicalSorter(graph).static_order())


def test_imports_go_down_only() -> None:
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "code", "problem"),
    [
        ("rows.py", "import latentvars.inference.engine", "imports go down only"),
        ("rows.py", "def f():\n    from latentvars.contract import Score", "imports go down only"),
        ("rows.py", "from latentvars import contract", "imports go down only"),
        ("rows/reading.py", "from latentvars.program import score", "imports go down only"),
        ("contract.py", "from . import capture", "imports go down only"),
        ("distributions/mixture.py", "from ..families import base", "imports go down only"),
        ("models/vae.py", "from latentvars.posterior import latent", "there is a wall"),
        ("models/vae.py", "from ..inference import svi", "there is a wall"),
        ("inference/em/em.py", "from latentvars.models.vae import VAE", "imports go down only"),
        ("inference/em/em.py", "from latentvars.inference.fits.fit import Fit", "imports go down only"),
        ("inference/em/em.py", "from ..sampling import nuts", "imports go down only"),
        ("inference/engine.py", "from latentvars.inference.restarts import several", "imports go down only"),
        ("inference/engine.py", "from latentvars.inference import Fit", "imports go down only"),
        ("inference/cellar/em.py", "import torch", "has no floor"),
        ("latent_space.py", "import latentvars.embedding", "imports go down only"),
        ("embedding/adapter.py", "import pyro.distributions as dist", "there is a wall"),
        ("embedding/__init__.py", "from ..models import vae", "there is a wall"),
        (
            "embedding/adapter.py",
            "import importlib\nimportlib.import_module('latentvars.inference')",
            "there is a wall",
        ),
        ("report.py", "import latentvars", "the package's face"),
        ("cellar.py", "import torch", "has no floor"),
    ],
)
def test_a_planted_upward_import_is_found(tmp_path: Path, file: str, code: str, problem: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(code)
    found = violations(tmp_path)
    assert len(found) == 1 and problem in found[0]


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("__init__.py", "from latentvars.cli import main\nfrom .models import vae"),
        ("models/__init__.py", "from .vae import VAE\nfrom latentvars.models.mixture import Mixture"),
        ("models/vae.py", "from ..distributions.mixture import Mixture\nimport pyro"),
        ("posterior/latent.py", "from .datatree import write\nfrom latentvars.rows import Rows"),
        ("inference/em/em.py", "from .m_step import maximise\nfrom ..running.algorithm import Problem"),
        ("inference/__init__.py", "from latentvars.inference.engine import run\nfrom .em.em import EM"),
    ],
)
def test_downward_imports_are_allowed(tmp_path: Path, file: str, code: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(code)
    assert violations(tmp_path) == []
