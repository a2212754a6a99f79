"""Where the bytes of an input are: a folder, a zip or a tar of pictures, all seen as one flat list of names.

An archive is indexed once, when the plan is made; after that every picture is a range of bytes in it, so that no archive
is ever unpacked and any worker can read any picture. A tar inside a tar (ImageNet as published) is a range of ranges.
"""

from collections.abc import Iterator

from maskmill.pipelines.reading.folder_index import list_folder
from maskmill.pipelines.reading.inputs import HIDDEN, Refusal, left_out
from maskmill.pipelines.reading.location import MAX_FILE_BYTES, Location
from maskmill.pipelines.reading.names import is_hidden
from maskmill.pipelines.reading.tar_index import DamagedArchive, list_tar
from maskmill.pipelines.reading.zip_index import list_zip
from maskmill.schemas import storage
from maskmill.schemas.errors import InputError
from maskmill.schemas.sparse import open_sparse


def is_archive(path: str) -> bool:
    """Whether a path names a zip or tar by its ending. Compressed tars have no random access and are not taken."""
    return path.endswith((".zip", ".tar"))


def list_tree(
    path: str, wanted: str = "a folder, a .zip or a .tar of pictures"
) -> Iterator[tuple[str, Location | Refusal]]:
    """Every file of a folder, zip or tar as (relative name with forward slashes, where it is), in no fixed order.

    Where something is there but not taken (hidden, a link to nowhere, encrypted, named unsafely), its line of the ledger
    stands in place of the location: whoever lists a tree can account for all of it. Names are spelled as ids are, see
    `pipelines.reading.names`. `wanted` says in messages what may stand at `path`.

    Raises:
        InputError: nothing at `path`, it cannot be read, is neither folder nor zip nor tar, or is an archive that does not
            say reliably what it holds.
    """
    try:
        if is_archive(path):
            size = storage.size(path)
            with open_sparse(path) as stream:
                yield from list_zip(path, stream, size) if path.endswith(".zip") else list_tar(path, stream, 0, size)
        elif storage.is_remote(path):
            for name, size in storage.walk(path):
                if is_hidden(name):
                    yield name, left_out(name, HIDDEN)
                else:  # a size is told where no picture has it; what the file is, is for others to say
                    told = size if size > MAX_FILE_BYTES else 0
                    yield name, Location(storage.join(path, *name.split("/")), size=told)
        else:
            yield from list_folder(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} not found; --images takes {wanted}") from error
    except NotADirectoryError as error:
        raise InputError(f"{path} is a file; --images takes {wanted}") from error
    except OSError as error:
        raise InputError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
    except DamagedArchive as error:
        raise InputError(f"{path} is damaged: {error}") from error
