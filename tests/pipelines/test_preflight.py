"""Clusters that are not what they should be: one sentence and an exit code, within seconds."""

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.portability.local_job_service import LocalJobServicer
from clusters import free_port, job_service, pool_flags, worker_pool
from drawn import content
from stand_ins import FLINK, rest, write_java

from maskmill.pipelines.clusters import preflight, runners
from maskmill.pipelines.clusters.checks import check
from maskmill.pipelines.commands.cli import main
from maskmill.pipelines.driver import graph
from maskmill.pipelines.driver.build import build
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
from maskmill.schemas.errors import InputError


def command(config: BuildConfig, out, *beam: str) -> list[str]:
    own = ["build", "--dataset", "folder", "--images", config.images, "--masks", "grid(n=2)", "--out", str(out)]
    return [*own, "--", *beam]


def refused(config, folder: Path, flags: list[str], code: int, capsys) -> str:
    """What a refused build says: one line, within seconds, before anything is written."""
    start = time.monotonic()
    assert main(command(config, folder / "out", *flags)) == code
    assert time.monotonic() - start < 20
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1, said
    assert not (folder / "out").exists()
    return said


@pytest.fixture
def java(tmp_path) -> str:
    return write_java(tmp_path)


@pytest.mark.parametrize(
    ("answer", "status", "flags", "code", "message"),
    [
        (FLINK, 200, [], 2, "is Flink 1.20.5, and the job would be for 2.2; add --flink_version=1.20 after --"),
        (
            {**FLINK, "flink-version": "1.9.1"},
            200,
            [],
            2,
            "is Flink 1.9.1, and the job would be for 2.2; Beam can use 1.",
        ),
        ({**FLINK, "slots-total": 0}, 200, ["--flink_version=1.20"], 4, "has no task slots; start a TaskManager"),
        (FLINK, 503, [], 4, "is not Flink's REST interface, or not ready yet (HTTPError: HTTP Error 503"),
        ({"hello": "world"}, 200, [], 4, "is not Flink's REST interface, or not ready yet (KeyError"),
        (FLINK, 200, ["--flink_version=1.20"], 2, "which has no maskmill; give --environment_type=EXTERNAL"),
    ],
)
def test_another_flink_or_no_flink(answer, status, flags, code, message, coco, java, tmp_path, capsys):
    with rest(json.dumps(answer).encode(), status) as address:
        flags = ["--runner=FlinkRunner", f"--flink_master={address}", f"--job_server_java_launcher={java}", *flags]
        assert message in refused(coco, tmp_path, flags, code, capsys)


def test_a_job_server_that_is_not_there(coco, java, tmp_path, capsys):
    with rest(json.dumps(FLINK).encode()) as address:
        flags = [
            "--runner=FlinkRunner",
            f"--flink_master={address}",
            "--flink_version=1.20",
            "--environment_type=LOOPBACK",
        ]
        said = refused(coco, tmp_path, [*flags, "--job_server_java_launcher=no-java"], 4, capsys)
        assert "with 'no-java', which is not on this machine; install a Java runtime" in said
        flags.append(f"--job_server_java_launcher={java}")
        assert "x.jar not found" in refused(coco, tmp_path, [*flags, "--flink_job_server_jar=/x.jar"], 4, capsys)
        nowhere = f"http://127.0.0.1:{free_port()}/job-server-{os.getpid()}.jar"
        assert main(command(coco, tmp_path / "out", *flags, f"--flink_job_server_jar={nowhere}")) == 4
    said = capsys.readouterr().err
    assert f"maskmill: Beam's job server for FlinkRunner cannot be fetched from {nowhere} (" in said
    assert "give it as --flink_job_server_jar=FILE after --" in said


def test_a_flink_job_is_handed_to_the_job_server(coco, java, tmp_path, capsys):
    """All of the way but Flink itself: Beam's FlinkRunner starts a job server, which gets our job and a pool's workers."""
    pool = free_port()
    jar = tmp_path / "job-server.jar"
    jar.touch()
    with rest(json.dumps(FLINK).encode()) as address, worker_pool(tmp_path, pool):
        flags = [
            "--runner=FlinkRunner",
            f"--flink_master={address}",
            f"--flink_job_server_jar={jar}",
            *pool_flags(pool),
        ]
        assert main(command(coco, tmp_path / "out", *flags, f"--job_server_java_launcher={java}")) == 0, (
            capsys.readouterr()
        )
    given = json.loads((tmp_path / "java.json").read_text())
    assert given[:4] == ["-jar", str(jar), "--flink-master", f"http://{address}"]
    build(
        BuildConfig("folder", coco.images, ("grid(n=2)",)), str(tmp_path / "local"), RunOptions(workers=0), quiet=True
    )
    assert content(tmp_path / "out") == content(tmp_path / "local")


def test_services_of_another_kind(coco, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(preflight, "REACH_S", 2.0)
    with rest(b"hello") as address:
        said = refused(coco, tmp_path, ["--runner=PortableRunner", f"--job_endpoint={address}"], 4, capsys)
        assert "is not a Beam job service" in said
        pytest.importorskip("distributed")
        said = refused(coco, tmp_path, ["--runner=DaskRunner", f"--dask_client_address=tcp://{address}"], 4, capsys)
        assert "is not a Dask scheduler" in said


def test_a_dask_cluster_without_workers(coco, tmp_path, capsys):
    distributed = pytest.importorskip("distributed")
    options = {"processes": True, "host": "127.0.0.1", "dashboard_address": None}
    with distributed.LocalCluster(n_workers=0, **options) as cluster:
        flags = ["--runner=DaskRunner", f"--dask_client_address={cluster.scheduler_address}"]
        assert "has no workers; start some: dask worker tcp://" in refused(coco, tmp_path, flags, 4, capsys)


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--runner=FlinkRuner"], 2, "there is no runner 'FlinkRuner'; did you mean FlinkRunner?"),
        (
            ["--runner=PortableRunner", "--job_endpoint=localhost:PORT"],
            4,
            "nobody answers at --job_endpoint=localhost:",
        ),
        (["--runner=DataflowRunner"], 2, "is on this machine, where Dataflow's workers cannot see it; use gs://"),
    ],
)
def test_a_report_made_on_a_cluster_is_refused_alike(flags, code, message, coco, tmp_path, capsys):
    build(BuildConfig("folder", coco.images, ("grid(n=2)",)), str(tmp_path), RunOptions(workers=0), quiet=True)
    flags = [flag.replace("PORT", str(free_port())) for flag in flags]
    assert main(["report", str(tmp_path), "--from-shards", "--", *flags]) == code
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> list[str]:
    with job_service(tmp_path_factory.mktemp("jobs")) as flags:
        yield flags


def test_pools_that_are_none_or_start_no_workers(jobs, coco, tmp_path, capsys, monkeypatch):
    job_port = int(jobs[1].rpartition(":")[2])
    assert "is not a pool of Beam workers (" in refused(coco, tmp_path, [*jobs, *pool_flags(job_port)], 4, capsys)
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(preflight, "START_S", 1.0)
    pool = free_port()
    with worker_pool(tmp_path, pool, PATH=str(python.parent)):
        said = refused(coco, tmp_path, [*jobs, *pool_flags(pool)], 4, capsys)
    assert "answers, but its workers do not start within 1 s; it runs `python` by that name" in said


class _BeforeFlink(LocalJobServicer):
    """A job service that, as the job servers of Flink and Spark, has an option for where its cluster is."""

    def DescribePipelineOptions(self, request, context=None, timeout=None):
        options = [beam_job_api_pb2.PipelineOptionDescriptor(name="flink_master")]
        return beam_job_api_pb2.DescribePipelineOptionsResponse(options=options)


@pytest.mark.parametrize("service", [LocalJobServicer, _BeforeFlink])
def test_a_job_server_here_for_a_cluster_elsewhere(service, coco, tmp_path, caplog):
    """Its pools are on the cluster's machines. That none is here is wrong only where the workers are to be here."""
    servicer = service(str(tmp_path))
    address = f"localhost:{servicer.start_grpc_server()}"
    flags = (f"--job_endpoint={address}", *pool_flags(free_port()))
    try:
        runner = runners.Runner("PortableRunner", flags)
        if service is LocalJobServicer:
            with pytest.raises(InputError, match=r"^nobody answers at --environment_config=localhost:"):
                check(runner, images=coco.images, out=str(tmp_path))
            return
        check(runner, images=coco.images, out=str(tmp_path))
        assert "nobody answers at --environment_config=localhost:" in caplog.text
        assert "(on this machine; as it should be where the pools run on others, else the job waits)" in caplog.text
        with rest(json.dumps(FLINK).encode()) as master:
            known = runners.Runner("PortableRunner", (*flags, f"--flink_master={master}"))
            with pytest.raises(InputError, match=r"^nobody answers at --environment_config=localhost:"):
                check(known, images=coco.images, out=str(tmp_path))
    finally:
        servicer.stop(timeout=1)


_WITHOUT = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "maskmill":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Without())
"""


def test_a_pool_without_maskmill(jobs, coco, tmp_path, capsys):
    (tmp_path / "sitecustomize.py").write_text(_WITHOUT)
    pool = free_port()
    with worker_pool(tmp_path, pool, PYTHONPATH=str(tmp_path)):
        assert main(command(coco, tmp_path / "out", *jobs, *pool_flags(pool))) == 4
    said = capsys.readouterr().err
    assert "maskmill: the workers of PortableRunner do not have maskmill (no module '" in said
    assert len([line for line in said.strip().splitlines() if "no image yet" not in line]) == 1  # beside the progress


def test_workers_with_another_beam_refuse(coco, tmp_path):
    config = BuildConfig("folder", coco.images, ("grid(n=2)",))
    build(config, str(tmp_path), RunOptions(workers=0), quiet=True)
    from maskmill.pipelines.parts.plan import load_plan

    part = graph.BuildPart(str(tmp_path), load_plan(str(tmp_path)).digest, 60.0, False)
    part.setup()
    part.beam = "2.1.0"
    with pytest.raises(
        RuntimeError, match=r"this worker's software is not the one .*: +apache-beam: '2.1.0' -> '"
    ) as caught:
        part.setup()
    lines = '  File ...\n    raise RuntimeError(f"this worker\'s software is not the one X: {lines}")\n'
    lines += f"RuntimeError: {caught.value}"
    said = runners.explain(RuntimeError(f"{lines} [while running 'BuildPart']"), runners.Runner("FlinkRunner"))
    assert said.exit_code == 4
    assert str(said).startswith(
        "the workers of FlinkRunner refused: this worker's software is not the one the plan was"
    )
    assert str(said).endswith(f"apache-beam: '2.1.0' -> '{graph.beam.__version__}'")


_INTERRUPTED = """
import os, signal, sys
from maskmill.pipelines.commands.cli import on_interrupt
on_interrupt("go on")
if sys.argv[1] == "job server":
    ours = signal.getsignal(signal.SIGINT)
    def end_job_server(number, frame):
        print("the job server is ended", flush=True)
        ours(number, frame)
    signal.signal(signal.SIGINT, end_job_server)
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize(("beam", "said"), [("job server", "the job server is ended\n"), ("none", "")])
def test_a_polite_kill_ends_beams_job_server_too(beam, said):
    """Beam ends the Java program that it starts for Flink and Spark on Ctrl-C only."""
    command = [sys.executable, "-c", _INTERRUPTED, beam]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(graph.__file__).parent.parent)
    assert (done.returncode, done.stdout) == (130, said)
    assert "interrupted; go on" in done.stderr
