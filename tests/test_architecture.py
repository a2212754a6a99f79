"""The direction of imports, and what building must never load."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = {"schemas", "masks", "pipelines", "training"}
FRAMEWORKS = {"apache_beam", "tensorflow", "jax", "flax"}
MAY_IMPORT = {
    "schemas": set(),
    "masks": {"schemas"},
    "pipelines": {"schemas", "masks", "apache_beam"},
    "training": {"schemas", "tensorflow", "jax", "flax"},
}


def imported(source: str) -> set[str]:
    """Top-level names of all modules that a source text imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
    return names


def violations(room: str, source: str) -> set[str]:
    return (imported(source) & (ROOMS | FRAMEWORKS)) - MAY_IMPORT[room] - {room}


def test_imports_go_one_way():
    found = {
        str(path.relative_to(ROOT)): bad
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if (bad := violations(room, path.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_a_planted_violation_is_found():
    assert violations("schemas", "from maskmill.masks.grid import Grid") == {"masks"}
    assert violations("training", "def f():\n    import maskmill.pipelines.driver.build") == {"pipelines"}
    assert violations("masks", "import apache_beam as beam") == {"apache_beam"}


def test_beam_is_where_jobs_are_wired_and_nowhere_else():
    found = {
        str(path.relative_to(ROOT / "pipelines"))
        for path in (ROOT / "pipelines").rglob("*.py")
        if "apache_beam" in imported(path.read_text(encoding="utf-8"))
    }
    assert found == {"graph.py", "preflight.py", "ranker.py", "report/job.py", "runners.py"}


def test_every_room_is_checked():
    assert all(list((ROOT / room).glob("*.py")) for room in ROOMS)


def test_building_loads_neither_tensorflow_nor_jax():
    code = (
        "import sys, maskmill.pipelines.driver.graph, maskmill.pipelines.driver.build, maskmill.pipelines.driver.finish, maskmill.pipelines.parts.isolation, maskmill.masks.registry as r\n"
        "[r.generator_class(n) for n in r.GENERATORS]\n"
        "print(sorted({'tensorflow', 'jax', 'flax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_readmes_table_is_the_schema():
    import re

    from maskmill.schemas.example import FEATURES

    rows = re.findall(
        r"^\| `([a-z_/0-9]+/[a-z_/0-9]+)` \| (\w+)( list)? \| (.*) \|$", (ROOT / "README.md").read_text(), re.M
    )
    found = {name: (kind, bool(repeated), meaning) for name, kind, repeated, meaning in rows}
    assert found == {name: (f.kind, f.repeated, f.meaning) for name, f in FEATURES.items()}
