"""COCO as published: a folder or zip of pictures and one instances json.

Inputs are the images that the json lists, annotated or not. Files that it does not list are not part of the data set.
"""

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Iterator

from maskmill.pipelines.reading.inputs import Input, Refusal, lost
from maskmill.pipelines.reading.location import Location
from maskmill.pipelines.reading.names import escape_surrogates, member_path, spelled
from maskmill.pipelines.reading.tree import is_archive, list_tree
from maskmill.schemas import storage
from maskmill.schemas.errors import InputError

KEPT = ("id", "category_id", "iscrowd", "segmentation")  # what a record needs of an annotation


def load_instances(path: str) -> dict:
    """The instances json, checked for the three lists that everything else rests on.

    Raises:
        InputError: missing, not JSON, or without lists `images`, `annotations` and `categories`.
    """
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError:
        raise InputError(f"{path} not found; --annotations takes COCO's instances_*.json") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    for name in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise InputError(f"{path} is not a COCO instances file: it has no list {name!r}")
    return content


def integer_id(value: object) -> int | None:
    """A JSON id as a 64-bit integer, or None: floats without a fraction pass, NaN, text and huge numbers do not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and (not math.isfinite(value) or value != int(value)):
        return None
    return int(value) if -(2**63) <= value < 2**63 else None


@dataclasses.dataclass
class Coco:
    """The `coco` data set.

    Attributes:
        images: folder or .zip of the pictures.
        annotations: the instances json.
    """

    images: str
    annotations: str
    categories: dict[int, str] = dataclasses.field(default_factory=dict)
    labels: str = "none"

    def list_inputs(self) -> Iterator[Input | Refusal]:
        content = load_instances(self.annotations)
        for category in content["categories"]:
            number = integer_id(category.get("id")) if isinstance(category, dict) else None
            if number is None:
                raise InputError(f"{self.annotations}: a category has no integer id: {str(category)[:100]}")
            self.categories[number] = escape_surrogates(str(category.get("name", category["id"])))
        by_image: dict[int, list[dict]] = defaultdict(list)
        strays: dict[str, int] = defaultdict(int)
        for annotation in content["annotations"]:
            image_id = integer_id(annotation.get("image_id")) if isinstance(annotation, dict) else None
            if image_id is None:
                strays[
                    f"image_id={str(annotation.get('image_id') if isinstance(annotation, dict) else annotation)[:60]}"
                ] += 1
            else:
                by_image[image_id].append({name: annotation[name] for name in KEPT if name in annotation})
        content["annotations"] = []  # half of the memory; the pieces live on in by_image
        files = self._members()
        prefix = _common_folder(files) if self.images.endswith(".zip") else ""
        seen: set[int] = set()
        for image in content["images"]:
            entry = self._entry(image, files, prefix, by_image, seen)
            yield entry
        for image_id in sorted(set(by_image) - seen):
            strays[f"image_id={image_id}"] += len(by_image[image_id])
        for name, count in sorted(strays.items()):
            text = f"{count} annotations name an image that the file does not list"
            yield Refusal(spelled(name), "list", "dangling_image_id", text)

    def _members(self) -> dict[str, Location | Refusal]:
        """What an archive holds, by name. Of a folder nothing: its pictures are found where the json says that they are."""
        listed = list_tree(self.images)
        if not is_archive(self.images):
            next(listed, None)  # that there is such a folder is known before a plan is made of it
            return {}
        files: dict[str, Location | Refusal] = {}
        for name, found in listed:
            if isinstance(found, Location) or name not in files:
                files[name] = found
        return files

    def _entry(
        self,
        image: object,
        files: dict[str, Location | Refusal],
        prefix: str,
        by_image: dict[int, list[dict]],
        seen: set[int],
    ) -> Input | Refusal:
        name = image.get("file_name") if isinstance(image, dict) else None
        image_id = integer_id(image.get("id")) if isinstance(image, dict) else None
        if image_id is None or not isinstance(name, str):
            text = "an image needs an integer id and a file_name"
            return Refusal(spelled(f"image {str(image)[:80]}"), "list", "bad_annotation", text)
        identity = spelled(name)
        if image_id in seen:
            text = f"image id {image_id} is listed twice"
            return Refusal(f"{identity} (image id {image_id})", "list", "duplicate_id", text)
        seen.add(image_id)
        try:
            member = spelled(member_path(name))
        except ValueError as error:
            return lost(identity, str(error))
        if is_archive(self.images):
            found = files.get(member) or files.get(prefix + member)
            if found is None:
                text = f"the json lists {name}, but {self.images} has no such file"
                return Refusal(identity, "list", "not_found", text)
        else:  # a missing one fails when it is read, so that `retry` finds it once it is there
            found = Location(storage.join(self.images, *name.split("/")))
        if isinstance(found, Refusal):
            return dataclasses.replace(found, id=identity, attempts=1, outcome="failed")
        assert isinstance(image, dict)  # or it had no id
        height, width = integer_id(image.get("height")), integer_id(image.get("width"))
        size = (height, width) if height is not None and width is not None else None
        return Input(identity, found, str(image_id), size=size, annotations=tuple(by_image.get(image_id, ())))


def _common_folder(files: dict[str, Location | Refusal]) -> str:
    """`train2017/` when every file of a zip lies in that one folder, else ""."""
    names = [name for name, found in files.items() if isinstance(found, Location)]
    tops = {name.partition("/")[0] for name in names}
    return f"{tops.pop()}/" if len(tops) == 1 and all("/" in name for name in names) else ""
