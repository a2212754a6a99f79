"""What the site needs besides docs/: the texts of the top folder as pages, and the rooms put together as they are imported."""

import re
import shutil
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

TOP = Path(__file__).parents[2]
ROOMS = ("schemas", "masks", "pipelines", "training")
# Texts that stay where people and registries look for them; the site shows them as pages of the same name in small letters.
TEXTS = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")


def only_sources(folder: str, names: list[str]) -> list[str]:
    """For `copytree`: what is neither a module nor a folder of modules."""
    return [name for name in names if not name.endswith(".py") and ("." in name or name == "__pycache__")]


def on_startup(**_: object) -> None:
    """Makes build/house/maskmill: setup.py maps the rooms into the package, which a reader of files does not know.

    Before anything is configured: what reads the files looks only into folders that are there then.
    """
    house = TOP / "build" / "house" / "maskmill"
    shutil.rmtree(house, ignore_errors=True)
    for path, place in [(TOP / "maskmill", house), *((TOP / room, house / room) for room in ROOMS)]:
        shutil.copytree(path, place, dirs_exist_ok=True, ignore=only_sources)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the texts of the top folder."""
    for name in TEXTS:
        text = (TOP / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name.lower(), content=as_page(text)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """A link of a page in docs/ to a text of the top folder leads to that text's page."""
    return re.sub(rf"\]\(\.\./({'|'.join(map(re.escape, TEXTS))})", lambda found: f"]({found[1].lower()}", markdown)


def as_page(text: str) -> str:
    """A text of the top folder with its links as they are seen from docs/."""
    text = re.sub(r"\]\(docs/", "](", text)
    return re.sub(rf"\]\(({'|'.join(map(re.escape, TEXTS))})", lambda found: f"]({found[1].lower()}", text)
