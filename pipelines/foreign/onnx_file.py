"""An ONNX model file of a generator: read once when a build is planned, known by its digest, kept for the workers.

Sessions run on the CPU, on one thread, operators one after another: the same machine gives the same bytes.
"""

import hashlib
import re
from typing import TYPE_CHECKING

from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, InputError, UsageError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MAX_BYTES = 2**31 - 1  # of a model file: protobuf has no larger message
SHA256 = re.compile(r"^[0-9a-f]{64}$")
_EXTERNAL = b"\n\x08location\x12"  # how a tensor begins to name the file its values are in (StringStringEntryProto)


def read_model(path: str, sha256: str = "") -> tuple[bytes, str]:
    """A model's bytes and their digest.

    Args:
        path: local or gs://.
        sha256: what the digest was before; "" where it is not known yet.

    Raises:
        InputError: it cannot be read, is too large, or is another model than before.
    """
    try:
        data = storage.read_whole(path, MAX_BYTES)
    except OSError as error:
        raise InputError(f"the model {path} cannot be read: {error.strerror or in_a_line(error)}") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"the model {path} is larger than 2 GiB, which no ONNX file is")
    now = hashlib.sha256(data).hexdigest()
    if sha256 and now != sha256:
        raise InputError(
            f"{path} is not the model this build was begun with (sha256 {sha256[:16]}..., now {now[:16]}...); "
            "put the old one back, choose another --out, or --overwrite to start anew"
        )
    return data, now


def kept_path(folder: str, sha256: str) -> str:
    """Where the workers' copy is, in the folder that a generator is prepared in."""
    return storage.join(folder, f"{sha256}.onnx")


def verify_model(path: str, sha256: str, folder: str) -> None:
    """Raises DamageError when the workers' copy is gone, InputError when the model at `path` has changed."""
    if not storage.exists(kept_path(folder, sha256)):
        raise DamageError(f"the copy of {path} is gone from the build's folder; build with --overwrite")
    read_model(path, sha256)


def read_kept(path: str, sha256: str) -> bytes:
    """The workers' copy.

    Raises:
        DamageError: it is another model.
    """
    data, now = read_model(path)
    if now != sha256:
        raise DamageError(f"{path} is not the model that was planned with; build with --overwrite")
    return data


def open_session(data: bytes, path: str, generator: str) -> "InferenceSession":
    """The model, ready to run.

    Args:
        data: the file's bytes.
        path: what errors call it.
        generator: what needs it.

    Raises:
        UsageError: onnxruntime is not installed.
        InputError: it is no such model, or only a part of one.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UsageError(f"{generator} masks need onnxruntime; install it with: pip install 'maskmill[onnx]'") from None
    if _EXTERNAL in data:
        raise InputError(f"{path} keeps its weights in another file; save it as one file (save_as_external_data=False)")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # what goes wrong is in the exception
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InputError(f"{path} is no model that onnxruntime can run: {in_a_line(error)}") from error


def in_a_line(error: Exception) -> str:
    """An error of another library, short enough for a sentence."""
    return " ".join(str(error).split())[:200] or type(error).__name__
