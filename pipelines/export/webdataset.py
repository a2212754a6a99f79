"""webdataset: a tar per shard, and in it per record the picture, its masks as JSON, and its class where it has one.

    000000012.jpg | .png     the stored bytes (absent where the data set holds no pictures)
    000000012.json           what `sample_json` says
    000000012.cls            the class label, as text

Members of a sample share a number, that of the record: webdataset takes everything from the first dot of a name for the
kind of a file, so pictures' own names (`a.b.jpg`) cannot be keys. They are in the JSON.
"""

import io
import json
import tarfile

from maskmill.pipelines.export.chosen import Chosen, Mask
from maskmill.schemas import storage
from maskmill.schemas.example import ImageExample
from maskmill.schemas.record_index import first_records


def tar_name(chosen: Chosen, index: int) -> str:
    """`coco-train-000007.tar`, which `{000000..000015}` spans."""
    return f"{chosen.manifest.dataset}-{chosen.manifest.split}-{index:06d}.tar"


def write_tar(chosen: Chosen, index: int, path: str) -> tuple[int, int]:
    """One shard as a tar, the same bytes every time: (records, masks). Raises DamageError, OSError."""
    first = int(first_records(chosen.manifest)[index])
    number = masks = 0
    with storage.create(path) as file, tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
        for number, example in enumerate(chosen.records(chosen.manifest.shards[index]), 1):
            key = f"{first + number - 1:09d}"
            if example.encoded is not None:
                _add(tar, f"{key}.{'png' if example.format == 'PNG' else 'jpg'}", example.encoded)
            content = sample_json(chosen, example)
            masks += sum(len(listed) for listed in content["layers"].values())
            _add(tar, f"{key}.json", json.dumps(content, sort_keys=True).encode("ascii"))
            if example.label >= 0:
                _add(tar, f"{key}.cls", str(example.label).encode())
    return number, masks


def sample_json(chosen: Chosen, example: ImageExample) -> dict:
    """A record without its picture: {"filename", "source_id", "sha256", "height", "width", "label", "synset", "text",
    "layers": {name: [{"segmentation", "bbox", "area", "score"}]}, and, where wanted, "annotations" as COCO has them}."""

    def plain(mask: Mask) -> dict:
        segmentation = {"size": [example.height, example.width], "counts": mask.counts}
        return {"segmentation": segmentation, "bbox": mask.box, "area": mask.area}

    layers: dict[str, list[dict]] = {name: [] for name in chosen.names}
    for mask in chosen.masks(example):
        layers[str(mask.category)].append({**plain(mask), "score": mask.score})
    names = ("filename", "source_id", "sha256", "height", "width", "label", "synset", "text")
    content = {name: getattr(example, name) for name in names} | {"layers": layers}
    if chosen.truth:
        content["annotations"] = [
            {**plain(mask), "id": mask.id, "category_id": mask.category, "iscrowd": int(mask.is_crowd)}
            for mask in chosen.annotations(example)
        ]
    return content


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # owner, group and time are zero
    member.size = len(data)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(data))
