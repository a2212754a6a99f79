"""Model files: arrays in `.npz`, read without pickle and checked before use, beside a JSON card that says where they are from."""

import dataclasses
import functools
import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np

from maskmill.masks.mcg.trees import ARRAYS, TreeModel

FORMAT = 1
MAX_FILE_BYTES = 64 << 20
MAX_ARRAY_BYTES = 256 << 20  # all arrays together, unpacked
# Features of model files under the names they had when these were written.
RENAMED = {"green": "a", "blue": "b", "green_spread": "a_spread", "blue_spread": "b_spread"}
SHIPPED = Path(__file__).with_name("models")


@dataclasses.dataclass(frozen=True)
class Model:
    """A tree model with its origin.

    Attributes:
        trees: the ensemble.
        sha256: of the `.npz` file.
        card: the JSON card: labels it was trained on, digest of the image ids, seed, measurements.
    """

    trees: TreeModel
    sha256: str
    card: dict

    @property
    def provenance(self) -> dict:
        """What a manifest says of the model."""
        return {"sha256": self.sha256, "labels": self.card["labels"], "images_sha256": self.card["images_sha256"]}


def model_bytes(trees: TreeModel, kind: str, features: tuple[str, ...]) -> bytes:
    """The `.npz` file of a model; the same bytes for the same model."""
    arrays = {f.name: getattr(trees, f.name) for f in dataclasses.fields(trees)}
    arrays["format"] = np.array([FORMAT], np.int32)
    arrays["kind"] = np.array([kind])
    arrays["features"] = np.array(features)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            # A fixed date: numpy's own writer stamps the time, and equal models would differ.
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), member.getvalue(), zipfile.ZIP_DEFLATED
            )
    return out.getvalue()


def _arrays(data: bytes) -> dict[str, np.ndarray]:
    wanted = {*ARRAYS, "format", "kind", "features"}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = {info.filename.removesuffix(".npy") for info in archive.infolist()}
        if names != wanted or len(archive.infolist()) != len(wanted):
            raise ValueError(
                f"holds {', '.join(sorted(names)) or 'nothing'}; a model holds {', '.join(sorted(wanted))}"
            )
        if sum(info.file_size for info in archive.infolist()) > MAX_ARRAY_BYTES:
            raise ValueError(f"its arrays unpack to more than {MAX_ARRAY_BYTES >> 20} MiB")
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in wanted}


def parse_model(data: bytes, kind: str, features: tuple[str, ...]) -> TreeModel:
    """Model bytes to a model, trusting nothing.

    Args:
        data: a whole `.npz` file.
        kind: `contour` or `ranker`.
        features: the columns our code computes for that kind.

    Raises:
        ValueError: not such a file, damaged, of another format version or kind, trained on other features, or with trees
            that would read out of bounds or never end.
    """
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"is {len(data)} bytes, more than {MAX_FILE_BYTES >> 20} MiB")
    try:
        arrays = _arrays(data)
    except ValueError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds on damaged files
        raise ValueError(f"is not a readable .npz file ({type(error).__name__}: {error})") from error
    if arrays["format"].shape != (1,) or arrays["format"].dtype.kind not in "iu" or int(arrays["format"][0]) != FORMAT:
        raise ValueError(
            f"has model format {arrays['format'].tolist()}, this version reads format {FORMAT}; train it again"
        )
    for name in ("kind", "features"):
        if arrays[name].dtype.kind != "U" or arrays[name].ndim != 1:
            raise ValueError(f"array {name!r} must be a flat list of words")
    if arrays["kind"].tolist() != [kind]:
        raise ValueError(f"is a {' '.join(arrays['kind'].tolist())[:40]!r} model, a {kind!r} model is needed")
    if tuple(RENAMED.get(name, name) for name in arrays["features"].tolist()) != features:
        raise ValueError("was trained on other features than this version computes; train it again")
    model = TreeModel(**{name: arrays[name] for name in ARRAYS})
    model.check(len(features))
    return model


@functools.lru_cache(maxsize=8)
def load_model(path: str, kind: str, features: tuple[str, ...]) -> Model:
    """Reads a model and its card.

    Args:
        path: the `.npz` file; the card is the `.json` beside it. `default` is the one that comes with maskmill.
        kind, features: see `parse_model`.

    Raises:
        ValueError: a file is missing or not what it should be; the message names it.
    """
    file = SHIPPED / f"{kind}.npz" if path == "default" else Path(path)
    card_file = file.with_suffix(".json")
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"is more than {MAX_FILE_BYTES >> 20} MiB")
        data = file.read_bytes()
        trees = parse_model(data, kind, features)
        card = json.loads(card_file.read_text(encoding="utf-8")[: 1 << 20])
        if not isinstance(card, dict) or not {"labels", "images_sha256", "model_sha256"} <= card.keys():
            raise ValueError(f"card {card_file.name} lacks labels, images_sha256 or model_sha256")
        digest = hashlib.sha256(data).hexdigest()
        if card["model_sha256"] != digest:
            raise ValueError(f"card {card_file.name} belongs to another model file")
    except OSError as error:
        missing = error.filename or file
        raise ValueError(
            f"{kind} model {missing}: {error.strerror or error}; train one with `maskmill ranker`"
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{kind} model card {card_file}: not JSON ({error})") from error
    except ValueError as error:
        raise ValueError(f"{kind} model {file}: {error}") from error
    return Model(trees, digest, card)
