"""Batches of augmentable views with their masks, from a build's folder: what a training step is fed.

Threads of this process do the work (`training.record`), in an order that is decided beforehand (`training.order`), and
write each record's views to its place in the batch; nothing depends on which of them is first. Shards are read and
checked by threads of their own, a group ahead. Colour is not touched here: it is augmented on the device.
"""

import collections
import contextlib
import os
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import google_crc32c
import numpy as np

from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, MaskmillError
from maskmill.schemas.manifest import Shard
from maskmill.schemas.reader import shard_errors
from maskmill.schemas.tfrecord import read_records
from maskmill.training.cache import local_shard
from maskmill.training.config import DataConfig
from maskmill.training.data_set import open_data_set
from maskmill.training.host import keep_freed_memory
from maskmill.training.order import Group, Order
from maskmill.training.record import BrokenRecord, fill_views

CHUNK = 16  # records of one task; large enough to make the cost of handing it over disappear
AHEAD = 2  # batches that are made while one is used
READERS = 4  # shards read at a time


class Batches:
    """The batches of one process. Two groups of `config.shuffle_group_bytes` are in memory at a time: the one that is
    used and the next.

    Attributes:
        manifest_digest: identity of the data set; a run may only continue on the same.
        num_records: records of the data set.
        steps_per_epoch: see `training.order`; what is left over of an epoch is less than a batch.
    """

    def __init__(
        self,
        data_dir: str,
        config: DataConfig,
        *,
        global_batch: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Opens a build and checks what can be checked without reading it through.

        Args:
            data_dir: a build's folder, local or gs:// (whose shards are kept in a local cache, see `training.cache`).
            config: what to read, crop and sample.
            global_batch: images per step, over all processes.
            seed: of order, crops and masks.
            process_index, process_count: which equal part of every batch is this process's.

        Raises:
            InputError, DamageError: see `training.data_set.open_data_set`.
            UsageError: a batch that does not divide by the processes, or exceeds the records.
        """
        keep_freed_memory()
        self._folder, self._config = data_dir, config
        self._manifest, self._layers = open_data_set(data_dir, config)
        self._order = Order(
            self._manifest,
            global_batch=global_batch,
            seed=seed,
            group_bytes=config.shuffle_group_bytes,
            process_index=process_index,
            process_count=process_count,
        )
        self.manifest_digest = self._manifest.digest
        self.num_records = self._manifest.num_records
        self.steps_per_epoch = self._order.steps_per_epoch

    def at(self, step: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches from a global step on, without end.

        The n images of this process, with views of `size` = `config.image_size`, M masks and (size / `config.cell`)**2 cells:

        - image1, image2: uint8[n, size, size, 3], RGB; with `config.views` 1 the same crop twice.
        - weights1, weights2: float32[n, M, cells], the part of each cell that a mask covers, or one-hot cells.
        - ids1, ids2: int32[n, M]; the same number is the same region in both views, -1 is padding (weights 0).
        - label: int32[n], the image's class, -1 where unknown.
        - key: uint32[n, 2], a seed for each record and epoch.

        Raises:
            DamageError: a shard or a record is broken; names it.
        """
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        with contextlib.ExitStack() as stack:
            workers, readers = ThreadPoolExecutor(threads), ThreadPoolExecutor(READERS)
            stack.callback(workers.shutdown, wait=False, cancel_futures=True)
            # What is being downloaded is finished or taken back: nothing half-written stays behind in the cache.
            stack.callback(readers.shutdown, wait=True, cancel_futures=True)
            source = self._started(step, workers, readers)
            waiting: collections.deque = collections.deque()
            failure = None
            while True:
                while failure is None and len(waiting) <= AHEAD:
                    try:
                        waiting.append(next(source))
                    except MaskmillError as error:
                        failure = error  # for the step that needs it; those before it are whole
                if failure is not None and not waiting:
                    raise failure
                batch, tasks = waiting.popleft()
                for task in tasks:
                    task.result()
                yield batch

    def records(self, step: int) -> Generator[tuple[Group, list[bytes]]]:
        """Groups from a step on with the records of their shards, in the order read; one group is read ahead."""
        with ThreadPoolExecutor(READERS) as readers:
            yield from self._read(step, readers)

    def _read(self, step: int, readers: ThreadPoolExecutor) -> Iterator[tuple[Group, list[bytes]]]:
        ahead: tuple[Group, list[Future]] | None = None
        for group in self._order.groups(step):
            shards = [self._manifest.shards[shard] for shard in group.shards]
            tasks = [readers.submit(_read_whole, self._folder, shard) for shard in shards]
            if ahead is not None:
                yield ahead[0], [record for task in ahead[1] for record in task.result()]
            ahead = group, tasks

    def _started(
        self, step: int, workers: ThreadPoolExecutor, readers: ThreadPoolExecutor
    ) -> Iterator[tuple[dict[str, np.ndarray], list[Future]]]:
        """Batches whose rows are being filled, with the tasks that do it. A batch may span groups, a task does not."""
        size = self._order.batch
        batch, tasks, row = self.empty(), [], 0
        for group, records in self._read(step, readers):
            begin = 0
            while begin < len(group.places):
                count = min(CHUNK, size - row, len(group.places) - begin)
                part = slice(begin, begin + count)
                rows = {name: array[row : row + count] for name, array in batch.items()}
                payloads = [records[place] for place in group.places[part]]
                tasks.append(workers.submit(self._fill, payloads, group.records[part], group.keys[part], rows))
                begin, row = begin + count, row + count
                if row == size:
                    yield batch, tasks
                    batch, tasks, row = self.empty(), [], 0

    def empty(self) -> dict[str, np.ndarray]:
        """Arrays of one batch of this process, not filled."""
        n, config = self._order.batch, self._config
        size, masks, cells = config.image_size, config.masks_per_view, (config.image_size // config.cell) ** 2
        batch = {"label": np.empty(n, np.int32), "key": np.empty((n, 2), np.uint32)}
        for view in "12":
            batch[f"image{view}"] = np.empty((n, size, size, 3), np.uint8)
            batch[f"weights{view}"] = np.empty((n, masks, cells), np.float32)
            batch[f"ids{view}"] = np.empty((n, masks), np.int32)
        return batch

    def _fill(self, payloads: list[bytes], numbers: np.ndarray, keys: np.ndarray, rows: dict[str, np.ndarray]) -> None:
        try:
            fill_views(payloads, keys, self._layers, self._config, rows)
        except BrokenRecord as error:
            shard, index = self._order.place(int(numbers[error.index]))
            raise DamageError(f"{self._manifest.shards[shard].name}: record {index}{error}") from None


def _read_whole(folder: str, shard: Shard) -> list[bytes]:
    """A shard's records. Their own checksums do not tell a shard of another build, whole in itself; the file's does.

    Raises:
        DamageError: a broken record, or a file that is not the one that the manifest lists.
    """
    checksum = google_crc32c.Checksum()
    with shard_errors(folder, shard), storage.open_read(local_shard(folder, shard)) as file:
        records = list(read_records(file, shard.name, checksum=checksum))
    found = checksum.hexdigest().decode()
    if found != shard.crc32c or len(records) != shard.records:
        raise DamageError(
            f"{shard.name} in {folder} has {len(records)} records and crc32c {found}, the manifest says {shard.records} "
            f"and {shard.crc32c}: the shard is of another build; `maskmill validate` shows what else is"
        )
    return records
