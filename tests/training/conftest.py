"""Compiler settings for the trainer's tests: compile quickly, once per machine. Set before JAX is imported."""

import os
import shutil
from pathlib import Path

# Most of a test's time is compilation of tiny networks; optimising them is wasted.
QUICK_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_COMPILE}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "maskmill-tests" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from maskmill.training.config import Config, DataConfig, LogConfig, ModelConfig, OptimConfig  # noqa: E402

# The least that is still DetCon-B: 4 blocks, 2 x 2 cells, 4 masks.
TINY = Config(
    algorithm="detcon_b",
    batch_size=8,
    epochs=5.0,
    data=DataConfig(image_size=64, masks_per_view=4),
    model=ModelConfig(arch="tiny", hidden=16, out=8, dtype="float32"),
    optim=OptimConfig(warmup_epochs=0.5),
    log=LogConfig(log_every=2, checkpoint_every=4, tensorboard=False),
)


class FakeBatches:
    """What the input pipeline promises, without files: position is a pure function of the step."""

    num_records = 32
    steps_per_epoch = 4

    def __init__(self, data_dir, data, *, global_batch, seed, process_index=0, process_count=1):
        self.manifest_digest = f"digest of {data_dir}"
        self._data, self._batch, self._seed = data, global_batch, seed
        self._share = slice(
            process_index * global_batch // process_count, (process_index + 1) * global_batch // process_count
        )

    def at(self, step):
        while True:
            yield {name: array[self._share] for name, array in self.batch(step).items()}
            step += 1

    def batch(self, step):
        """The global batch: noise images; masks are random, with shared identities, copies and a padded slot."""
        random = np.random.default_rng([self._seed, step])
        n, masks, size = self._batch, self._data.masks_per_view, self._data.image_size
        batch = {"label": np.full(n, -1, np.int32), "key": random.integers(0, 2**32, (n, 2), np.uint32)}
        for view in "12":
            batch[f"image{view}"] = random.integers(0, 256, (n, size, size, 3), np.uint8)
            batch[f"weights{view}"] = random.random((n, masks, (size // 32) ** 2), np.float32) + 0.01
            batch[f"ids{view}"] = random.integers(0, 3, (n, masks)).astype(np.int32)
        batch["ids2"][0, -1] = -1
        batch["weights2"][0, -1] = 0
        return batch


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """A cache of shards that belongs to the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASKMILL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_config():
    """A configuration that trains in seconds."""
    return TINY


@pytest.fixture(scope="session")
def fake_batches():
    """Stands in for `training.input.Batches`."""
    return FakeBatches


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """One run of the tiny network to its end, with its folder and result, for every test that needs a trained run."""
    from maskmill.training.train import train

    workdir = tmp_path_factory.mktemp("tiny-run")
    return workdir, train("data", TINY, str(workdir), batches=FakeBatches)


@pytest.fixture(scope="session")
def scenes():
    """The module that draws synthetic scenes and writes builds of them (`scenes.write_scenes(folder, count)`)."""
    import scenes

    return scenes


@pytest.fixture(scope="module")
def build(scenes, tmp_path_factory):
    """30 scenes of 70 x 90 in 4 shards, every third of them a PNG."""
    folder = str(tmp_path_factory.mktemp("build"))
    scenes.write_scenes(folder, 30, size=(70, 90), kind=lambda i: "PNG" if i % 3 == 0 else "JPEG")
    return folder


@pytest.fixture
def damaged(build, tmp_path):
    """A copy of the build, to be broken."""
    return shutil.copytree(build, tmp_path / "copy")
