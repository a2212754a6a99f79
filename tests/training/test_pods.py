"""Several processes, one run: a folder on gs:// that all see, the same end for all, and resumption to the last bit."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from maskmill.schemas import storage
from maskmill.training.checkpoint import load_run
from maskmill.training.config_io import to_json

HERE = Path(__file__).parent
RUN = "gs://mill/run"


@pytest.fixture
def pod(gcs, tmp_path, tiny_config):
    """Runs two processes of one run to their ends; returns their exit codes and what they said."""
    (tmp_path / "config.json").write_text(to_json(tiny_config))

    def pod(*words, event="", workdirs=(RUN, RUN), timeout=250):
        with socket.socket() as s:
            s.bind(("localhost", 0))
            port = s.getsockname()[1]
        path = os.pathsep.join([str(HERE.parent.parent), str(HERE)])
        environment = os.environ | {"PYTHONPATH": path, "MASKMILL_TEST_EVENT": event}
        many = ["--coordinator", f"localhost:{port}", "--processes", "2", "--process-id"]
        common = ["train", "--config", str(tmp_path / "config.json"), "--data", "data", *words]
        workers = [
            subprocess.Popen(
                [sys.executable, str(HERE / "pod_worker.py"), *common, "--workdir", workdir, *many, str(index)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for index, workdir in enumerate(workdirs)
        ]
        try:
            said = [worker.communicate(timeout=timeout)[1] for worker in workers]
        finally:
            [worker.kill() for worker in workers]
        return [worker.returncode for worker in workers], said

    return pod


def ours(text):
    return [line for line in text.splitlines() if line.startswith("detcon train: ")]


def state(step):
    return safetensors.numpy.load(storage.read_bytes(f"{RUN}/checkpoints/{step}.safetensors"))


def log():
    lines = map(json.loads, storage.read_bytes(f"{RUN}/log.jsonl").decode().splitlines())
    return [(line["step"], line["loss"]) for line in lines]


@pytest.mark.slow
def test_a_pod_that_lost_a_process_goes_on_to_the_same_bits(pod, gcs):
    """Everything of the run lies in the bucket; the end is that of a run that nothing happened to."""
    steps = ["--set=steps=10", "--set=log.tensorboard=true"]
    codes, said = pod(*steps)
    assert codes == [0, 0], said
    whole, losses = state(10), log()
    names = dict(storage.walk(RUN))
    assert {"run.json", "log.jsonl", "checkpoints/10.json", "checkpoints/8.safetensors"} <= names.keys()
    assert any(name.startswith("tensorboard/events.out") for name in names)
    assert "lock.json" not in names
    storage.remove_all(f"{RUN}/{name}" for name in names)

    codes, said = pod(*steps, event="kill 1 6")
    assert codes == [4, -9], said
    [line] = ours(said[0])
    assert "another process of this run is gone" in line
    assert "run the same command on every host to go on from the last checkpoint" in line
    codes, said = pod(*steps)
    assert codes == [0, 0], said
    assert "resuming after step 4 of 10" in said[0]
    again = state(10)
    assert again.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    assert log() == losses
    assert load_run(RUN).step == 10


@pytest.mark.slow
def test_a_notice_to_one_process_stops_all_after_the_same_step(pod):
    codes, said = pod("--set=steps=2000", event="term 1 5")
    assert codes == [130, 130], said
    [[first], [second]] = map(ours, said)
    assert first == second
    step = load_run(RUN).step
    assert first.endswith(f"interrupted after step {step}, which is saved; the same command goes on from there")
    assert step < 1000


@pytest.mark.slow
def test_what_ends_one_process_ends_the_other_with_its_words(pod):
    codes, said = pod("--set=steps=2000", event="break 1 5")
    assert codes == [4, 5], said
    assert ours(said[1]) == ["detcon train: shard 3 is broken"]
    [line] = ours(said[0])
    assert "process 1 of 2 on " in line or "another process of this run is gone" in line


@pytest.mark.slow
def test_folders_that_are_not_shared_are_refused(pod, tmp_path):
    codes, said = pod(workdirs=[str(tmp_path / "a"), str(tmp_path / "b")], timeout=120)
    assert codes == [4, 4], said
    for text in said:
        [line] = ours(text)
        assert "process 1 of 2 on " in line
        assert "does not see what process 0 writes to " in line
        assert "gs://BUCKET/RUN" in line


@pytest.mark.slow
def test_another_data_set_on_one_host_is_refused(pod):
    codes, said = pod(event="other 1 0")
    assert codes == [4, 4], said
    for text in said:
        [line] = ours(text)
        assert "holds a run on another data set (manifest digest of da, now digest of so)" in line
