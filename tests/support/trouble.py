"""A generator that does to its process what the first pixel of the picture says. For tests of isolation only."""

import dataclasses
import logging
import os
import time

import numpy as np

from maskmill.masks.registry import GENERATORS
from maskmill.masks.runs import encode_label_map
from maskmill.pipelines.parts import isolation
from maskmill.schemas.errors import DamageError
from maskmill.schemas.mask import Layer, MaskSet

PEACE, ABORT, HANG, RAISE, ABORT_ONCE, SCRIBBLE, NO_MASKS, HOG, DAMAGE = range(9)


@dataclasses.dataclass(frozen=True)
class Trouble:
    @property
    def layers(self):
        return (Layer("trouble", "trouble", {}),)

    def __call__(self, record):
        kind = int(record.image[0, 0, 0])
        if "TROUBLE_WARNS" in os.environ:
            logging.getLogger("maskmill.masks.trouble").warning(os.environ["TROUBLE_WARNS"])
        memory = os.path.join(os.environ["TROUBLE_MEMORY"], record.key.replace("/", "_"))
        if kind == ABORT_ONCE and not os.path.exists(memory):
            with open(memory, "w"):
                pass
            os.abort()
        if kind == ABORT:
            os.write(2, b"about to abort\n")
            os.abort()
        if kind == HANG:
            while True:
                time.sleep(0.1)
        if kind == RAISE:
            raise ZeroDivisionError("a generator's own mistake")
        if kind == SCRIBBLE:
            record.image[:] = 0
        if kind == HOG:
            np.empty(6 << 30, np.uint8)
        if kind == DAMAGE:
            raise DamageError("what was joined is gone; build with --overwrite")
        if kind == NO_MASKS:
            return (MaskSet.unranked((), ()),)
        return (encode_label_map(np.zeros(record.image.shape[:2], np.int32)),)


def serve() -> None:
    GENERATORS["trouble"] = "trouble:Trouble"
    isolation.serve()
