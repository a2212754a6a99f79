"""Requests to gs://, counted by the two classes that they are paid by.

Class A changes or lists (writing, listing), class B reads (bytes, or what is known of an object); removing is free. Counted is
what goes over the wire, attempts that are made again included, since those are paid for as well.
"""

import threading
import urllib.parse
from typing import Any

import requests
import requests.adapters

_LOCK = threading.Lock()
_MADE = {"A": 0, "B": 0}


def class_of(method: str, url: str) -> str:
    """ "A", "B", or "" for what costs nothing, of a request to the JSON interface."""
    parts = urllib.parse.urlsplit(url)
    if method == "DELETE":
        return ""
    if method in ("GET", "HEAD"):
        return (
            "A" if parts.path.rstrip("/").endswith(("/o", "/b")) else "B"
        )  # a list of objects or buckets, or one of them
    # Pieces of an upload after its first request belong to that one.
    return "" if "upload_id=" in parts.query and method == "PUT" else "A"


def take() -> tuple[int, int]:
    """Requests of class A and B since this was last asked, by all threads of this process."""
    with _LOCK:
        made = _MADE["A"], _MADE["B"]
        _MADE["A"] = _MADE["B"] = 0
    return made


class CountingAdapter(requests.adapters.HTTPAdapter):
    """Sends requests and counts them."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        kind = class_of(request.method or "", request.url or "")
        if kind:
            with _LOCK:
                _MADE[kind] += 1
        return super().send(request, *args, **kwargs)
