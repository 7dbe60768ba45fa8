"""The rooms of the package and the doors between them: every import is walked, also those in functions."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GROUPS = {"acquire", "trace", "analysis", "output", "lab", "cli"}
PLAIN = {"errors", "units", "resources", "invocation"}

# Room -> rooms that it may import, besides itself and the plain modules. acquire and analysis meet only in
# trace; output shows what analysis found, never the other way.
ALLOWED = {
    "trace": set(),
    "acquire": {"trace"},
    "analysis": {"trace"},
    "output": {"trace", "analysis"},
    "lab": {"acquire", "trace", "analysis", "output", "cli"},
    "cli": {"acquire", "trace", "analysis", "output", "lab"},
}

# Recording happens on production hosts: what only reports need is not imported there.
ONLY_FOR_REPORTS = {"pandas", "plotly", "jinja2"}
MAY_REPORT = {"output", "cli", "lab"}


def room(module: str) -> str | None:
    """The room of a dotted module name; None for modules of others and for `tcptrace` itself."""
    parts = module.split(".")
    return parts[1] if parts[0] == "tcptrace" and len(parts) > 1 else None


def imported(source: str, module: str, *, is_package: bool) -> list[tuple[int, str]]:
    """(line, dotted name) of everything that a module imports."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                parents = package[: len(package) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            # `from tcptrace import analysis` names a room too.
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def wrong_edges(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Sentences on the imports that this module may not have."""
    own = room(module)
    wrong = []
    for line, name in imported(source, module, is_package=is_package):
        other = room(name)
        if name.split(".")[0] in ONLY_FOR_REPORTS and own not in MAY_REPORT:
            wrong.append(f"{module}:{line} imports {name}, which recording must do without")
        elif other not in GROUPS or other == own or own == "__main__":
            continue
        elif own is None or own in PLAIN:
            wrong.append(f"{module}:{line} imports {name}: it may import no group")
        elif other not in ALLOWED[own]:
            wrong.append(f"{module}:{line} imports {name}: {own} may not import {other}")
    return wrong


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted((ROOT / "tcptrace").rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


def test_every_import_uses_an_allowed_door() -> None:
    wrong = []
    for module, path in modules():
        wrong += wrong_edges(path.read_text(), module, is_package=path.name == "__init__.py")
    assert not wrong, "\n".join(wrong)


def test_every_module_is_in_a_known_room() -> None:
    rooms = {room(module) for module, _ in modules()} - {None, "__main__"}
    assert rooms <= GROUPS | PLAIN, "say in ALLOWED what the new room may import"


@pytest.mark.parametrize(
    ("module", "source", "count"),
    [
        ("tcptrace.analysis.summary", "from tcptrace.acquire import ring", 1),
        ("tcptrace.analysis.summary", "from tcptrace import acquire", 1),
        ("tcptrace.analysis.summary", "def f():\n    import tcptrace.output.tables", 1),
        ("tcptrace.analysis.summary", "from ..acquire.ring import Ring", 1),
        ("tcptrace.analysis.summary", "from .. import output", 1),
        ("tcptrace.analysis.summary", "from . import acquire\nfrom .connections import connections", 0),
        ("tcptrace.acquire.ring", "import tcptrace.analysis", 1),
        ("tcptrace.acquire.ring", "import pandas as pd", 1),
        ("tcptrace.errors", "from tcptrace.trace import wire", 1),
        ("tcptrace", "from tcptrace.trace import wire", 1),
        ("tcptrace.output.tables", "import tcptrace.analysis, pandas\nfrom tcptrace.errors import X", 0),
        ("tcptrace.cli.record", "from tcptrace.acquire import recorder\nimport numpy", 0),
    ],
)
def test_the_walk_sees_wrong_edges(module: str, source: str, count: int) -> None:
    assert len(wrong_edges(source, module)) == count


def test_relative_imports_of_packages_are_resolved() -> None:
    assert wrong_edges("from ..acquire import ring", "tcptrace.analysis", is_package=True)
    assert not wrong_edges("from .acquire import ring", "tcptrace.analysis", is_package=True)
