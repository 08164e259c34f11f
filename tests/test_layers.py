"""The floors of the house: a module imports from its own floor and from those below, never up; and no circles."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "rastudy"
FLOORS = ("ground", "data", "models", "training", "evaluation", "analysis", "transfer", "boundaries", "restore", "report",
          "judge", "sweep", "tools", "__main__")  # fmt: skip


def floor_of(module: str) -> int:
    first = module.split(".")[0]
    return FLOORS.index(first) if first in FLOORS else 0


def test_every_table_is_read_in_one_place():
    """Where a damaged one is told from a whole one."""
    assert [p.name for p in PACKAGE.rglob("*.py") if "read_csv" in p.read_text()] == ["predictions.py"]


def test_imports_go_down():
    files = {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in PACKAGE.rglob("*.py") if p.stat().st_size}
    graph: dict[str, set[str]] = {module: set() for module in files}
    for module, path in files.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rastudy"):
                place = node.module.removeprefix("rastudy").lstrip(".")
                named = [".".join(filter(None, (place, name.name))) for name in node.names]
                graph[module] |= {name if name in files else place for name in named}
    for module, imported in graph.items():
        assert all(floor_of(other) <= floor_of(module) for other in imported), (module, imported)
    list(TopologicalSorter(graph).static_order())  # raises CycleError
