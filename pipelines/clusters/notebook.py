"""Beam in a notebook, as it is everywhere else."""

from typing import Any
from unittest import mock

from apache_beam import Pipeline
from apache_beam import pipeline as beam_pipeline


def _unaltered(transform: Any, pvalueish: Any) -> None:
    """For `alter_label_if_ipython`."""


class PlainPipeline(Pipeline):
    """A pipeline whose steps keep their names in IPython.

    There Beam writes the number of the cell into them, and for that imports its tools for interactive work, which need a pandas
    of their own choice: without it, or with another, nothing can be built from a notebook.
    """

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        with mock.patch.object(beam_pipeline, "alter_label_if_ipython", _unaltered):
            return super().apply(*args, **kwargs)
