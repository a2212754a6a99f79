"""Planning on a cluster's workers, so that no shard, and of a large data set no line, passes through the machine that plans.

What is done to each item is `pipelines.parts.partition`'s; here it is given to Beam: Create(items) -> Reshuffle -> Map.
"""

import dataclasses
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from maskmill.pipelines.clusters.runners import Runner, explain, make_pipeline, quiet_streams
from maskmill.schemas.errors import MaskmillError


@dataclasses.dataclass(frozen=True)
class OnWorkers:
    """The workers of a cluster; see `pipelines.parts.partition.Workers`.

    Attributes:
        runner: the cluster's.
        say: told that a job was started.
    """

    runner: Runner
    say: Callable[[str], None] = lambda line: None

    def map(self, what: str, function: Callable[[Any], None], items: Sequence[Any], seconds: float) -> None:
        """A job that calls a function on each item.

        Raises:
            JobError, InputError: it failed; see `pipelines.clusters.runners.explain`.
        """
        count = len(items)
        self.say(f"{count:,} {what} are made on the workers of {self.runner.name}, so that a plan can be made")
        flags = self.runner.flags(f"maskmill-plan-{secrets.token_hex(4)}", 1, count, seconds * count)
        pipeline = make_pipeline(PipelineOptions(flags))
        _ = (
            pipeline
            | "Items" >> beam.Create(list(items), reshuffle=False)
            | "BreakFusion" >> beam.Reshuffle()
            | "Do" >> beam.Map(function)
        )
        try:
            with quiet_streams():
                pipeline.run().wait_until_finish()
        except MaskmillError:
            raise
        except Exception as error:
            raise explain(error, self.runner) from error
