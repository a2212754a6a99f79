"""The pages that people read: links lead somewhere, the notebook runs, and it is committed as it was written."""

import ast
import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
PAGES = sorted([*TOP.glob("*.md"), *TOP.glob("docs/**/*.md")])
NOTEBOOK = TOP / "docs" / "tour.ipynb"


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in an address, by GitHub as by the site."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken_links(page: Path, text: str) -> list[str]:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_links_lead_somewhere(page):
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


def test_a_broken_link_would_be_found():
    text = "[a](gone.md) [b](cloud.md#gone) [c](cloud.md#dataflow) `[d](gone.md)` [e](https://example.org)"
    assert broken_links(TOP / "docs" / "index.md", text) == ["gone.md", "cloud.md#gone"]


def test_the_first_page_has_a_way_for_each_reader():
    linked = set(re.findall(r"\]\(([^)#\s]+)", (TOP / "docs" / "index.md").read_text()))
    assert {"cloud.md", "report.md", "training.md", "extend.md", "readers.md", "export.md", "import.md"} <= linked


def test_every_page_is_on_the_site():
    told = (TOP / "mkdocs.yml").read_text()
    own = {str(page.relative_to(TOP / "docs")) for page in (TOP / "docs").rglob("*.md")} | {NOTEBOOK.name}
    assert {name for name in own if f" {name}\n" not in told} == set()


def test_a_warning_ends_the_making_of_the_site():
    """mkdocs counts the warnings that it shows: --quiet takes --strict its meaning."""
    (command,) = re.findall(r"-m mkdocs build(.*)", (TOP / "Makefile").read_text())
    options = command.split("#")[0].split()
    assert options == ["--strict"]


def test_names_of_the_reference_exist():
    """`make docs` finds this too; here it costs nothing, and is found where the site is not made."""
    import importlib

    for page in (TOP / "docs" / "api").glob("*.md"):
        for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE):
            if name == "maskmill.torch":
                continue  # which needs PyTorch
            try:
                importlib.import_module(name)
            except ImportError:
                module, _, attribute = name.rpartition(".")
                assert hasattr(importlib.import_module(module), attribute), name


def test_the_public_face_is_all_in_the_reference():
    import maskmill

    told = (TOP / "docs" / "api" / "maskmill.md").read_text()
    assert {name for name in maskmill.__all__ if f"::: maskmill.{name}\n" not in told} <= {"MaskmillError"}
    assert "MaskmillError" in told


def commands(text: str) -> list[list[str]]:
    """The command lines of ours in a page's blocks of code, continued lines joined, pipes and comments left out."""
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if language:
            continue
        for line in re.sub(r"\\?\n +(?=[^ ])", " ", block).splitlines():
            line = line.removeprefix("$ ")
            if re.match(r"(maskmill|detcon) ", line) and "..." not in line:
                found.append(shlex.split(line.split(" | ")[0], comments=True))
    return found


SHOWN = [(page.name, words) for page in PAGES for words in commands(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("page", "words"), SHOWN, ids=[f"{page}-{i}" for i, (page, _) in enumerate(SHOWN)])
def test_command_lines_of_the_pages_are_ones(page, words):
    """Options, presets and specs as the commands know them; nothing is run."""
    from maskmill.pipelines.commands.cli import build_parser, split_beam_args
    from maskmill.pipelines.parts.generators import generator_class
    from maskmill.training.cli import _parser
    from maskmill.training.presets import PRESETS

    own, _ = split_beam_args(words[1:])
    args = (build_parser() if words[0] == "maskmill" else _parser()).parse_args(own)
    for spec in getattr(args, "masks", None) or ():
        name = spec.split("(")[0]
        if name in ("halves",):  # of docs/extend.md
            continue
        known = {field.name for field in dataclasses.fields(generator_class(name))}
        given = ast.parse(spec, mode="eval").body
        assert isinstance(given, ast.Name) or {word.arg for word in given.keywords} <= known
    if preset := getattr(args, "preset", None):
        assert preset in PRESETS


def test_there_are_command_lines_to_check_and_a_wrong_one_is_found(capsys):
    assert len(SHOWN) > 40
    with pytest.raises(SystemExit):
        test_command_lines_of_the_pages_are_ones("page", ["maskmill", "view", "OUT", "--colour", "red"])
    with pytest.raises(AssertionError):
        test_command_lines_of_the_pages_are_ones("page", ["maskmill", "build", "--masks", "fh(scale=3)"])


def test_the_notebook_is_committed_as_it_was_written():
    """No outputs, no counters, nothing of a machine; the site is made by running it."""
    notebook = json.loads(NOTEBOOK.read_text())
    assert {tuple(cell.get("outputs", ())) for cell in notebook["cells"]} == {()}
    assert {cell.get("execution_count") for cell in notebook["cells"]} == {None}
    assert {tuple(cell["metadata"]) for cell in notebook["cells"]} == {()}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert "version" not in notebook["metadata"]["language_info"]


def test_the_notebook_runs(monkeypatch, tmp_path, capsys):
    """Its code in order, as a kernel runs it, which `make docs` does."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    space: dict[str, object] = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), space)
    said = capsys.readouterr().out
    assert "12 records with the layers fh-100 fh-500 fh-1000 grid-2 grid-5 gt" in said
    assert re.search(r"^gt +3\.0 masks per image   ABO 1\.000$", said, re.MULTILINE)
    assert "detcon train" in said
