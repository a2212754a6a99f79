"""The direction of imports, names in strings included, and what building must never load."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FRAMEWORKS = {"apache_beam", "tensorflow", "jax", "flax"}
# Who may import whom among the rooms of the house. The public face stands on top: it hands names on, and nobody imports it.
MAY_IMPORT = {
    "schemas": set(),
    "masks": {"schemas"},
    "pipelines": {"schemas", "masks", "apache_beam"},
    "training": {"schemas", "tensorflow", "jax", "flax"},
}
# The same inside `pipelines`, from the ground up: a room may import those of lower floors, and itself.
FLOORS = (
    {"reading", "measuring", "clusters"},
    {"foreign"},
    {"parts", "dataset"},
    {"folding"},
    {"report", "mcg_training", "export"},
    {"driver"},
    {"commands"},
)
_MODULE = re.compile(r"maskmill(\.\w+)+")


def imported(source: str) -> set[str]:
    """Dotted names of all modules that a source text imports or names in a string ("module" or "module:class")."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # also inside a program for a child process, or an f-string's constant part
            names |= {found.group() for found in _MODULE.finditer(node.value)}
    return names


def rooms_named(source: str) -> set[str]:
    """Rooms of the house and frameworks that a source text imports."""
    found = set()
    for name in imported(source):
        top, _, rest = name.partition(".")
        found.add(rest.partition(".")[0] if top == "maskmill" else top)
    return found & (set(MAY_IMPORT) | FRAMEWORKS)


def violations(room: str, source: str) -> set[str]:
    return rooms_named(source) - MAY_IMPORT[room] - {room}


def floors_named(source: str) -> set[str]:
    """Rooms inside `pipelines` that a source text imports."""
    prefix = "maskmill.pipelines."
    return {n.removeprefix(prefix).partition(".")[0] for n in imported(source) if n.startswith(prefix)}


def climbs(room: str, source: str) -> set[str]:
    """Rooms that `room` imports although they do not stand below it."""
    height = next(i for i, floor in enumerate(FLOORS) if room in floor)
    below = set().union(*FLOORS[:height])
    return (floors_named(source) & set().union(*FLOORS)) - below - {room}


def docstrings_removed(path: Path) -> str:
    """A file's text without docstrings, which may name whom they like."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0].value.value = ""
    return ast.unparse(tree)


def test_imports_go_one_way():
    found = {
        str(path.relative_to(ROOT)): bad
        for room in MAY_IMPORT
        for path in (ROOT / room).rglob("*.py")
        if (bad := violations(room, docstrings_removed(path)))
    }
    assert found == {}


def test_inside_pipelines_nobody_climbs():
    found = {
        str(path.relative_to(ROOT)): bad
        for path in (ROOT / "pipelines").glob("*/*.py")
        if (bad := climbs(path.parent.name, docstrings_removed(path)))
    }
    assert found == {}


def test_pipelines_has_no_other_rooms():
    here = {path.parent.name for path in (ROOT / "pipelines").glob("*/*.py")}
    assert here == set().union(*FLOORS)
    assert [path.name for path in (ROOT / "pipelines").glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize(
    ("room", "source", "found"),
    [
        ("schemas", "from maskmill.masks.grid import Grid", {"masks"}),
        ("training", "def f():\n    import maskmill.pipelines.driver.build", {"pipelines"}),
        ("masks", "import apache_beam as beam", {"apache_beam"}),
        ("masks", "from maskmill import pipelines", {"pipelines"}),
        ("masks", "IMPORTED = {'x': 'maskmill.pipelines.foreign.generator:Imported'}", {"pipelines"}),
        ("schemas", "code = f'import maskmill.masks.{name}'", {"masks"}),
    ],
)
def test_a_planted_violation_is_found(room, source, found):
    assert violations(room, source) == found


@pytest.mark.parametrize(
    ("room", "source", "found"),
    [
        ("parts", "from maskmill.pipelines.report.write import write_report", {"report"}),
        ("reading", "def f():\n    from maskmill.pipelines import parts", {"parts"}),
        ("dataset", "from maskmill.pipelines.parts.plan import Plan", {"parts"}),
        ("driver", "from maskmill.pipelines.parts.plan import Plan", set()),
    ],
)
def test_a_planted_climb_is_found(room, source, found):
    assert climbs(room, source) == found


def test_beam_is_where_jobs_are_wired_and_nowhere_else():
    found = {
        str(path.relative_to(ROOT / "pipelines"))
        for path in (ROOT / "pipelines").rglob("*.py")
        if "apache_beam" in rooms_named(path.read_text(encoding="utf-8"))
    }
    assert found == {
        "clusters/checks.py",
        "clusters/notebook.py",
        "clusters/preflight.py",
        "clusters/runners.py",
        "driver/graph.py",
        "driver/inner_tars.py",
        "driver/listing.py",
        "driver/probe.py",
        "mcg_training/ranker.py",
        "report/job.py",
    }


def test_every_room_is_checked():
    assert all(list((ROOT / room).glob("*.py")) for room in MAY_IMPORT)


def test_building_loads_neither_tensorflow_nor_jax():
    code = (
        "import sys, maskmill.pipelines.driver.graph, maskmill.pipelines.driver.build, maskmill.pipelines.driver.finish\n"
        "import maskmill.pipelines.parts.isolation, maskmill.masks.registry as r\n"
        "[r.generator_class(n) for n in r.GENERATORS]\n"
        "print(sorted({'tensorflow', 'jax', 'flax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_readmes_table_is_the_schema():
    from maskmill.schemas.example import FEATURES

    rows = re.findall(
        r"^\| `([a-z_/0-9]+/[a-z_/0-9]+)` \| (\w+)( list)? \| (.*) \|$", (ROOT / "README.md").read_text(), re.M
    )
    found = {name: (kind, bool(repeated), meaning) for name, kind, repeated, meaning in rows}
    assert found == {name: (f.kind, f.repeated, f.meaning) for name, f in FEATURES.items()}
