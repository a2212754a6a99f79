"""What a build costs on a cluster, by simulation: time and dollars, with machines that start late, are slow, or are taken away.

A discrete-event simulation of the job that `pipelines.driver.graph` describes: parts are dealt to whichever core is free, a part
that is lost is built again from its start, and when the last part is done the shards are joined. Nothing is measured here; the
seconds an image takes come from `maskmill plan`, the rest from `Trouble` and `Cloud`, whose defaults are assumptions and say so.
"""

import dataclasses
import heapq
import math
from collections import deque

import numpy as np

HOUR = 3600.0
IMAGES_PER_SHARD = 1000
_MOST_ATTEMPTS = 1000  # of one part; a part that takes longer than machines live is never done

_READY, _TAKEN, _DONE, _LOST = range(
    4
)  # kinds of events: a machine is there, is taken away; a part is done, has failed


@dataclasses.dataclass(frozen=True)
class Cloud:
    """Machines and their price.

    Attributes:
        machines: how many work at most.
        cores: of one; each builds a part at a time.
        first: how many are asked for at once; 0 means all.
        more_a_minute: how many more are asked for in each minute after that.
        start_s: from asking for a machine until it takes its first part: the machine, the image, the kernels.
        dollars: an hour of one core with its memory and disk. The default is Dataflow's list price of batch work: a core
            0.056, 4 GB of memory 0.0144, disk 0.003.
    """

    machines: int
    cores: int = 4
    first: int = 0
    more_a_minute: float = math.inf
    start_s: float = 180.0
    dollars: float = 0.056 + 4 * 0.0036 + 0.003


@dataclasses.dataclass(frozen=True)
class Trouble:
    """What goes wrong; `Trouble(0, 0, 1, 0, 0)` is a world where nothing does.

    Attributes:
        taken_an_hour: share of the machines that are taken away within an hour; another is asked for at once.
        slow: share of the machines that are slow.
        slowness: how many times as long everything takes there.
        failing: share of the attempts at a part that fail somewhere in their middle and are made again.
        start_spread: standard deviation of the logarithm of `Cloud.start_s`.
    """

    taken_an_hour: float = 0.01
    slow: float = 0.02
    slowness: float = 2.0
    failing: float = 0.005
    start_spread: float = 0.3


NONE = Trouble(0.0, 0.0, 1.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Work:
    """What is built.

    Attributes:
        images: how many.
        seconds: an image takes on one core, on average.
        spread: standard deviation of the logarithm of an image's seconds.
        part_images: images of a part.
        join_s: seconds of a core to join a shard of `IMAGES_PER_SHARD` images: its bytes read and written once.
    """

    images: int
    seconds: float
    spread: float = 0.8
    part_images: int = 128
    join_s: float = 2.0

    @property
    def core_hours(self) -> float:
        """Without anything that goes wrong, and without waiting."""
        return (self.images * self.seconds + math.ceil(self.images / IMAGES_PER_SHARD) * self.join_s) / HOUR

    def parts(self, rng: np.random.Generator) -> np.ndarray:
        """Seconds of each part: sums of log-normal images, as gamma variables of the same mean and variance.

        Drawing 10^8 images one by one would take longer than all the rest.
        """
        count = max(1, math.ceil(self.images / self.part_images))
        sizes = np.diff(np.arange(count + 1) * self.images // count)
        variation = math.exp(self.spread**2) - 1  # variance over squared mean, of an image
        if variation == 0:
            return sizes * self.seconds
        return rng.gamma(sizes / variation, self.seconds * variation)

    def joins(self) -> np.ndarray:
        """Seconds of each shard's joining."""
        return np.full(math.ceil(self.images / IMAGES_PER_SHARD), self.join_s)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a simulated job went.

    Attributes:
        wall_s: from the first machine asked for until all is done.
        paid_core_s: of all machines, from asking until the end or until they were taken.
        worked_core_s: of it, spent on parts, lost attempts included.
        lost_core_s: of it, spent on attempts that came to nothing.
        taken: machines that were taken away.
        again: attempts beyond the first.
        dollars: for `paid_core_s`.
    """

    wall_s: float
    paid_core_s: float
    worked_core_s: float
    lost_core_s: float
    taken: int
    again: int
    dollars: float


class _Job:
    """The state of one simulated job; `run` goes through its events in the order of their times."""

    def __init__(self, cloud: Cloud, trouble: Trouble, rng: np.random.Generator):
        self.cloud, self.trouble, self.rng = cloud, trouble, rng
        self.events: list[tuple[float, int, int, int, int]] = []  # time, sequence, kind, machine, part
        self.sequence = 0
        self.asked: dict[int, float] = {}  # machines that are paid for, and since when
        self.slowness: dict[int, float] = {}
        self.building: dict[int, dict[int, float]] = {}  # machine -> part -> since when
        self.idle: deque[int] = deque()  # a machine as often as it has free cores
        self.paid = self.worked = self.lost = 0.0
        self.taken = self.again = 0
        first = min(cloud.first or cloud.machines, cloud.machines)
        for number in range(cloud.machines):
            self._ask(0.0 if number < first else (number - first + 1) / cloud.more_a_minute * 60)

    def _push(self, time: float, kind: int, machine: int, part: int = -1) -> None:
        self.sequence += 1
        heapq.heappush(self.events, (time, self.sequence, kind, machine, part))

    def _ask(self, now: float) -> None:
        machine = len(self.slowness)
        trouble = self.trouble
        self.slowness[machine] = trouble.slowness if self.rng.random() < trouble.slow else 1.0
        self.asked[machine] = now
        self._push(now + self.cloud.start_s * math.exp(self.rng.normal() * trouble.start_spread), _READY, machine)
        if trouble.taken_an_hour > 0:
            rate = -math.log1p(-trouble.taken_an_hour) / HOUR
            self._push(now + self.rng.exponential(1 / rate), _TAKEN, machine)

    def run(self, seconds: np.ndarray, now: float) -> float:
        """Does all pieces of work and returns when; machines stay for the next ones."""
        waiting = deque(range(len(seconds)))
        attempts = np.zeros(len(seconds), np.int64)
        left = len(seconds)
        self._deal(waiting, seconds, attempts, now)
        while left:
            now, _, kind, machine, part = heapq.heappop(self.events)
            if kind == _READY and machine in self.asked:
                self.building[machine] = {}
                self.idle.extend([machine] * self.cloud.cores)
            elif kind == _TAKEN and machine in self.asked:
                waiting.extendleft(self._take(machine, now))
            elif kind in (_DONE, _LOST) and machine in self.building and part in self.building[machine]:
                spent = now - self.building[machine].pop(part)
                self.worked += spent
                self.idle.append(machine)
                if kind == _DONE:
                    left -= 1
                else:
                    self.lost += spent
                    waiting.appendleft(part)
            self._deal(waiting, seconds, attempts, now)
        return now

    def _take(self, machine: int, now: float) -> list[int]:
        """A machine goes, and what it was at with it; another is asked for."""
        self.taken += 1
        self.paid += (now - self.asked.pop(machine)) * self.cloud.cores
        parts = self.building.pop(machine, {})
        spent = sum(now - since for since in parts.values())
        self.worked += spent
        self.lost += spent
        self._ask(now)
        return list(parts)

    def _deal(self, waiting: deque[int], seconds: np.ndarray, attempts: np.ndarray, now: float) -> None:
        while waiting and self.idle:
            machine = self.idle.popleft()
            if machine not in self.building:
                continue  # taken meanwhile
            part = waiting.popleft()
            attempts[part] += 1
            self.again += int(attempts[part] > 1)
            if attempts[part] > _MOST_ATTEMPTS:
                raise ValueError(f"a part of {seconds[part]:,.0f} s is never done: machines are taken away before")
            takes = float(seconds[part]) * self.slowness[machine]
            fails = self.rng.random() < self.trouble.failing
            self.building[machine][part] = now
            self._push(now + takes * (self.rng.random() if fails else 1.0), _LOST if fails else _DONE, machine, part)

    def outcome(self, wall: float) -> Outcome:
        """The bill, once all is done."""
        paid = self.paid + sum(max(0.0, wall - since) * self.cloud.cores for since in self.asked.values())
        dollars = paid / HOUR * self.cloud.dollars
        return Outcome(wall, paid, self.worked, self.lost, self.taken, self.again, dollars)


def simulate(work: Work, cloud: Cloud, trouble: Trouble | None = None, seed: int = 0) -> Outcome:
    """One job.

    Args:
        work: what is built.
        cloud: where.
        trouble: what goes wrong there; the usual things unless said otherwise.
        seed: of all that is drawn; the same seed gives the same outcome.

    Raises:
        ValueError: parts take so long, and machines are taken so often, that the job would never end.
    """
    # Two generators: the same parts whatever the machines, so that two clouds can be compared.
    of_parts, of_machines = (np.random.default_rng([seed, stream]) for stream in (0, 1))
    job = _Job(cloud, trouble or Trouble(), of_machines)
    built = job.run(work.parts(of_parts), 0.0)
    return job.outcome(job.run(work.joins(), built))  # no shard is joined before the last part of all is built
