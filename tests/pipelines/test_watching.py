"""What an engine's pages, a worker's log and the bill say of a build while it runs and afterwards."""

import dataclasses
import json
import logging
import os
import re
import time
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.transforms.environments import EmbeddedPythonGrpcEnvironment
from drawn import content

from maskmill.pipelines.commands.cli import main
from maskmill.pipelines.driver import graph
from maskmill.pipelines.driver.build import build
from maskmill.pipelines.parts import spent
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
from maskmill.pipelines.parts.isolation import InProcess
from maskmill.pipelines.parts.part import Step, build_part
from maskmill.pipelines.parts.plan import make_plan
from maskmill.pipelines.parts.spent import Spent, book, read_spent
from maskmill.schemas import local_files, operations


@pytest.fixture
def mixed(coco, tmp_path) -> BuildConfig:
    """40 pictures and 3 that are none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in sorted(os.listdir(coco.images)):
        os.link(os.path.join(coco.images, name), folder / name)
    (folder / "a-empty.jpg").touch()
    (folder / "b-text.jpg").write_text("hello")
    (folder / "c-text.jpg").write_text("hello again")
    return BuildConfig("folder", str(folder), ("grid(n=2)",))


def counters(config: BuildConfig, out: str, runner: fn_runner.FnApiRunner) -> dict[str, int]:
    plan = make_plan(config, out, 22)
    pipeline = beam.Pipeline(runner=runner)
    _ = (
        pipeline
        | beam.Create(graph.seeds(plan, range(plan.num_shards)), reshuffle=False)
        | graph.BuildShards(out, plan.digest, 60.0, False)
    )
    result = pipeline.run()
    result.wait_until_finish()
    found = result.metrics().query(MetricsFilter().with_namespace("maskmill"))["counters"]
    return {one.key.metric.name: one.committed for one in found}


def test_an_engine_is_told_images_reasons_stages_and_bytes(mixed, tmp_path):
    found = counters(mixed, str(tmp_path / "out"), fn_runner.FnApiRunner())
    sizes = [path.stat().st_size for path in Path(mixed.images).iterdir()]
    assert (found["images_written"], found["images_failed"]) == (40, 3)
    assert {name: n for name, n in found.items() if name.startswith("failed_")} == {
        "failed_empty_file": 1,
        "failed_not_an_image": 2,
    }
    assert found["bytes_read"] == sum(sizes)
    shards = [p.stat().st_size for p in (tmp_path / "out").glob("*.tfrecord-*")]
    assert found["bytes_written"] == sum(shards) > 0
    assert {"msec_decode", "msec_publish"} <= found.keys()
    # Parts that were built by an earlier job count as images, and as no work.
    again = counters(mixed, str(tmp_path / "out"), fn_runner.FnApiRunner())
    assert (again["images_written"], again["images_failed"], again["failed_not_an_image"]) == (40, 3, 2)
    assert "bytes_read" not in again


def test_counters_move_inside_a_part(mixed, tmp_path, monkeypatch):
    """One part of 43 images: the engine, asking for progress as engines do, sees it grow."""
    seen: list[int] = []

    def progress(self) -> None:
        while not self._done:
            asked = fn_runner.beam_fn_api_pb2.ProcessBundleProgressRequest(instruction_id=self._instruction_id)
            request = fn_runner.beam_fn_api_pb2.InstructionRequest(process_bundle_progress=asked)
            said = self._worker_handler.control_conn.push(request).get().process_bundle_progress
            for info in said.monitoring_infos:
                if info.labels.get("NAME") == "images_written":
                    seen.append(int.from_bytes(info.payload[:1], "little"))  # a varint below 128
            time.sleep(0.01)

    slow = InProcess.build

    def build_slowly(self, item, data):
        time.sleep(0.02)
        return slow(self, item, data)

    monkeypatch.setattr(fn_runner.ProgressRequester, "run", progress)
    monkeypatch.setattr(InProcess, "build", build_slowly)
    config = dataclasses.replace(mixed, num_shards=1)
    plan = make_plan(config, str(tmp_path / "out"), 43)
    assert len(plan.tasks) == 1
    # Over gRPC as on a cluster: without, the worker is called and nobody can ask meanwhile.
    runner = fn_runner.FnApiRunner(EmbeddedPythonGrpcEnvironment(), progress_request_frequency=0.01)
    pipeline = beam.Pipeline(runner=runner)
    _ = (
        pipeline
        | beam.Create(graph.seeds(plan, range(plan.num_shards)), reshuffle=False)
        | graph.BuildShards(str(tmp_path / "out"), plan.digest, 60.0, False)
    )
    pipeline.run().wait_until_finish()
    assert len(set(seen)) > 5
    assert 0 < min(seen) < 20 < max(seen) <= 40


def test_steps_of_a_part_come_as_they_are_done(mixed, tmp_path):
    plan = make_plan(dataclasses.replace(mixed, num_shards=1), str(tmp_path), 43)
    steps: list[Step] = []
    counts: list[int] = []

    class Builder(InProcess):
        def build(self, item, data):
            counts.append(len(steps))
            return super().build(item, data)

    sidecar = build_part(plan.tasks[0], str(tmp_path), Builder(plan.config.settings()), watch=steps.append)
    assert max(counts) == len(steps) - 2  # each image was told of before the next one was begun
    assert sum(step.images for step in steps) == sidecar.images == 43
    assert sum(step.written_bytes for step in steps) == sidecar.bytes
    assert sorted(step.reason for step in steps if step.reason) == ["empty_file", "not_an_image", "not_an_image"]
    assert steps[-1].ms.keys() == {"publish"}
    assert all({"read", "decode", "grid", "encode"} <= step.ms.keys() for step in steps[:-1] if not step.reason)


def test_a_worker_logs_a_line_for_each_part(mixed, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "maskmill"):
        build(mixed, str(tmp_path / "out"), RunOptions(workers=0, part_size=22), quiet=True)
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("part ")]
    assert len(lines) == 2
    pattern = r"part 0000[01]-00000-[0-9a-f]{8}: (\d+) images, (\d+) failed, \d+\.\d s, [\d.]+ images/s"
    found = [re.fullmatch(pattern, line) for line in lines]
    assert sum(int(one[1]) for one in found) == 43
    assert sum(int(one[2]) for one in found) == 3


def test_what_it_cost_is_in_the_report_and_outside_the_datas_identity(mixed, tmp_path, capsys):
    args = ["build", "--dataset", "folder", "--images", mixed.images, "--masks", "grid(n=2)", "--max-failure-rate", "1"]
    assert main([*args, "--out", str(tmp_path / "out"), "--workers", "1", "--part-size", "22"]) == 0
    said = capsys.readouterr().out
    cost = json.loads((tmp_path / "out" / "report.json").read_text())["throughput"]["cost"]
    read = sum(path.stat().st_size for path in Path(mixed.images).iterdir())
    assert (cost["parts"], cost["read_bytes"], cost["class_a"], cost["class_b"]) == (2, read, 0, 0)
    assert cost["core_hours"] > 0
    assert re.search(r"^spent: .* in 2 parts, \d+ kB of pictures read$|^spent: .* in 2 parts, .* read$", said, re.M)
    assert "core-hours inside 2 parts so far" in (tmp_path / "out" / "report.html").read_text()
    other = tmp_path / "other"
    assert main([*args, "--out", str(other), "--workers", "0", "--part-size", "5"]) == 0
    assert content(other) == content(tmp_path / "out")
    assert json.loads((other / "report.json").read_text())["throughput"]["cost"]["parts"] == 10


def test_attempts_that_came_to_nothing_are_on_the_bill(mixed, tmp_path, monkeypatch):
    out = str(tmp_path / "out")
    plan = make_plan(mixed, out, 22)
    part = graph.BuildPart(out, plan.digest, 60.0, False)
    part.setup()

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(local_files.os, "replace", full)
        with pytest.raises(OSError, match="No space"):
            list(part.process(plan.tasks[0]))
    assert read_spent(out) is None  # nor could the account be written
    list(part.process(plan.tasks[0]))
    assert read_spent(out).parts == 2
    assert read_spent(out).read_bytes > 0


@pytest.mark.parametrize(
    ("method", "url", "kind"),
    [
        ("GET", "https://storage.googleapis.com/storage/v1/b/mill/o?prefix=a&fields=x", "A"),
        ("GET", "https://storage.googleapis.com/storage/v1/b/mill/o/a%2Fo?alt=json", "B"),
        ("GET", "https://storage.googleapis.com/download/storage/v1/b/mill/o/a?alt=media", "B"),
        ("POST", "https://storage.googleapis.com/upload/storage/v1/b/mill/o?uploadType=multipart", "A"),
        ("POST", "https://storage.googleapis.com/upload/storage/v1/b/mill/o?uploadType=resumable", "A"),
        ("PUT", "https://storage.googleapis.com/upload/storage/v1/b/mill/o?uploadType=resumable&upload_id=1", ""),
        ("DELETE", "https://storage.googleapis.com/storage/v1/b/mill/o/a", ""),
    ],
)
def test_which_requests_are_paid_how(method, url, kind):
    assert operations.class_of(method, url) == kind


def test_requests_are_counted_as_the_bucket_counts_them(coco, gcs, tmp_path):
    gcs.upload(Path(coco.images), "mill", "images")
    before = len(gcs.requests)
    operations.take()
    config = dataclasses.replace(coco, images="gs://mill/images")
    build(config, "gs://mill/bill", RunOptions(workers=0, part_size=10), quiet=True)
    total = read_spent("gs://mill/bill") + Spent(0, 0.0, 0, 0, *operations.take())
    made = gcs.requests[before:]
    lists = sum(method == "GET" and re.search(r"/o(\?|$)", path) is not None for method, path in made)
    writes = sum(method == "POST" for method, path in made)
    assert total.class_a == lists + writes > 4
    assert total.class_b == sum(method == "GET" for method, path in made) - lists > 40
    assert total.parts == 4
    assert total.request_dollars == pytest.approx(total.class_a * 0.005 / 1000 + total.class_b * 0.0004 / 1000)


def test_accounts_add_up_over_processes_and_one_that_is_damaged_is_no_account(tmp_path, monkeypatch):
    out = str(tmp_path)
    assert read_spent(out) is None
    book(out, Spent(1, 2.0, 10, 5))
    book(out, Spent(1, 3.0, 10, 5))
    monkeypatch.setattr(spent.os, "getpid", lambda: 1)  # another process
    book(out, Spent(2, 4.0, 1, 1))
    assert len(list((tmp_path / "_work" / "spent").iterdir())) == 2
    assert dataclasses.replace(read_spent(out), class_a=0, class_b=0) == Spent(4, 9.0, 21, 11)
    for damage in (b"", b"{}", b"[]", b'{"parts": "many"}', b"\xff", b"x" * 10_000):
        (tmp_path / "_work" / "spent" / "f.json").write_bytes(damage)
        assert read_spent(out) is None
