"""The same bytes on other runners, and clear words within seconds where there is none."""

import io
import logging
import re
import sys
import tarfile
import time
import types
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.runners.portability import portable_runner
from clusters import free_port, job_server, portable_cluster, with_pool
from drawn import content, write_coco
from drill import Drill, DrillError, check_same, lose

from maskmill.pipelines.clusters import runners
from maskmill.pipelines.clusters.checks import check
from maskmill.pipelines.commands import cli
from maskmill.pipelines.commands.cli import main
from maskmill.pipelines.driver import graph
from maskmill.pipelines.driver.build import build
from maskmill.pipelines.parts import partition
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
from maskmill.pipelines.parts.plan import load_plan, make_plan
from maskmill.schemas.errors import DamageError, InputError, UsageError


@pytest.fixture(scope="module")
def reference(coco, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("reference")
    build(coco, str(out), RunOptions(workers=0), quiet=True)
    return content(out)


@pytest.fixture(scope="module")
def portable(tmp_path_factory) -> list[str]:
    with portable_cluster(tmp_path_factory.mktemp("cluster")) as flags:
        yield flags


def command(config: BuildConfig, out, *beam: str, workers: int = 0) -> list[str]:
    args = ["build", "--dataset", config.dataset, "--images", config.images, "--out", str(out)]
    args += ["--annotations", config.annotations] if config.annotations else []
    args += [part for spec in config.masks for part in ("--masks", spec)]
    return [*args, "--part-size", "14", "--workers", str(workers), "--", *beam]


def test_a_portable_cluster_gives_the_same_bytes_and_resumes(portable, coco, reference, tmp_path, capsys):
    assert main(command(coco, tmp_path, *portable, workers=1)) == 0, capsys.readouterr().err
    assert content(tmp_path) == reference
    next(tmp_path.glob("*tfrecord*")).unlink()
    next((tmp_path / "_work" / "shards").glob("00000-*.parts.gz")).unlink()
    assert main(command(coco, tmp_path, *portable)) == 0, capsys.readouterr().err
    assert content(tmp_path) == reference


def test_a_cluster_plans_a_data_set_in_shards(portable, coco, tmp_path, monkeypatch, capsys):
    (tmp_path / "tars").mkdir()
    pictures = sorted(Path(coco.images).iterdir())[:9]
    for number in range(3):
        with tarfile.open(tmp_path / "tars" / f"{number:05d}.tar", "w") as tar:
            for path in pictures[number::3]:
                tar.add(path, path.name)
    for name, value in (("MIN_SHARDS", 3), ("LARGE", 8), ("_IN_RANGE", 3)):
        monkeypatch.setattr(partition, name, value)
    config = BuildConfig("webdataset", str(tmp_path / "tars"), ("grid(n=2)",))
    build(config, str(tmp_path / "here"), RunOptions(workers=0), quiet=True)
    assert main(command(config, tmp_path / "there", *portable)) == 0, capsys.readouterr().err
    said = capsys.readouterr().err
    for what in ("3 lists of 3 shards", "3 ranges of the plan's order", "1 pieces of the plan"):
        assert f"{what} are made on the workers of PortableRunner, so that a plan can be made" in said
    assert content(tmp_path / "there") == content(tmp_path / "here")
    assert load_plan(str(tmp_path / "there")).digest == load_plan(str(tmp_path / "here")).digest
    assert not list((tmp_path / "there" / "_work").glob("listing*"))


def test_a_job_that_is_left_to_itself_finishes_the_build(portable, coco, reference, tmp_path, capsys):
    own, beam = command(coco, tmp_path)[:-1], ["--", *portable]
    assert main([*own, "--detach", *beam]) == 0, capsys.readouterr().err
    assert f"the job runs by itself, and finishes {tmp_path}; see how far: maskmill status" in capsys.readouterr().out
    deadline = time.monotonic() + 120
    while not (tmp_path / "manifest.json").exists():
        assert main(["status", str(tmp_path)]) == 0
        assert time.monotonic() < deadline
        time.sleep(0.2)
    capsys.readouterr()
    assert main(["status", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("finished\ninputs 40 = written 40")
    assert content(tmp_path) == reference
    assert main(["report", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ([], "but the build runs in this process"),
        (["--runner=FlinkRunner", "--flink_master=localhost:8081"], "but FlinkRunner is served by this process"),
        (["--runner=DaskRunner"], "but DaskRunner is served by this process"),
        (
            ["--runner=PortableRunner", "--job_endpoint=localhost:1", "--environment_type=LOOPBACK"],
            "but PortableRunner is",
        ),
    ],
)
def test_what_would_end_with_this_process_cannot_be_left(flags, why, coco, tmp_path, capsys):
    own = command(coco, tmp_path / "out")[:-1]
    assert main([*own, "--detach", "--", *flags]) == 2
    said = capsys.readouterr().err
    assert why in said
    assert len([line for line in said.strip().splitlines() if "no image yet" not in line]) == 1  # beside the progress


@pytest.mark.slow
def test_a_pool_that_is_killed_in_the_middle_costs_only_what_was_not_committed(tmp_path):
    images, annotations = write_coco(tmp_path / "drawn", 24, 480, 640)
    said: list[str] = []
    drill = Drill(images, annotations, ("fh",), tmp_path, 2, said.append)
    config = BuildConfig("coco", images, ("fh",), annotations=annotations)
    build(config, str(tmp_path / "local"), RunOptions(workers=0, part_size=2), quiet=True)
    with with_pool(tmp_path, job_server) as cluster:
        parts = len(drill.sidecars("local"))
        outcome = lose(drill, "broken", cluster, cluster.losses[0], tmp_path / "local", parts)
    assert re.fullmatch(r"lost at \d+ of 12 parts; exit 1 after \d+ s; same command again", outcome)
    assert "maskmill: the job on PortableRunner failed (" in said[0]
    assert said[0].endswith("finished parts are kept, and the same command resumes")

    shard = next((tmp_path / "broken").glob("*.tfrecord-*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(DrillError, match=f"the build differs from the local build in {shard.name}$"):
        check_same(tmp_path / "broken", tmp_path / "local", "the build")


def test_workers_with_other_software_refuse(portable, coco, tmp_path, monkeypatch, capsys):
    from maskmill.pipelines.driver import build as build_module
    from maskmill.pipelines.parts import plan as plan_module
    from maskmill.pipelines.parts.provenance import versions

    other = {**versions(), "numpy": "0.1"}
    monkeypatch.setattr(plan_module, "versions", lambda: other)
    monkeypatch.setattr(build_module, "versions", lambda: other)
    assert main(command(coco, tmp_path, *portable)) == 4
    said = capsys.readouterr().err
    assert "maskmill: the workers of PortableRunner refused: this worker's software is not the one the plan was" in said
    assert "numpy: '0.1' -> " in said
    assert len([line for line in said.strip().splitlines() if "no image yet" not in line]) == 1  # beside the progress


def test_dask_gives_the_same_bytes(coco, reference, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
        ) as cluster,
    ):
        flags = ["--runner=DaskRunner", f"--dask_client_address={cluster.scheduler_address}"]
        assert main(command(coco, tmp_path, *flags)) == 0
    assert content(tmp_path) == reference


def test_a_build_from_a_notebook_is_one_like_any_other(coco, reference, tmp_path, monkeypatch):
    """In IPython Beam renames the steps, and for that imports what an installation need not have, or has in another version."""
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(execution_count=7, config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "apache_beam.runners.interactive", None)  # not importable
    with pytest.raises(ImportError), beam.Pipeline() as pipeline:  # the control
        _ = pipeline | beam.Create([1])
    build(coco, str(tmp_path / "out"), RunOptions(workers=0), quiet=True)
    assert content(tmp_path / "out") == reference


def test_local_names_of_beam_mean_the_local_runner(coco, tmp_path):
    for name in ("DirectRunner", "direct", "FnApiRunner"):
        assert runners.choose((f"--runner={name}",)) == runners.Runner()
    assert runners.choose(("--runner", "flink", "--x=1")) == runners.Runner("FlinkRunner", ("--x=1",))
    assert runners.choose(()).is_local


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--runner=DataflwRunner"], 2, "there is no runner 'DataflwRunner'; did you mean DataflowRunner?"),
        (["--runner=Nonsense"], 2, "there is no runner 'Nonsense'; there are "),
        (["--runner=no.such.Runner"], 4, "no.such.Runner cannot be loaded"),
        (["--runner=PortableRunner"], 2, "needs --job_endpoint=HOST:PORT"),
        (["--runner=PortableRunner", "--job_endpoint=localhost:PORT"], 4, "nobody answers at --job_endpoint=localhost"),
        (["--runner=FlinkRunner", "--flink_master=localhost:PORT"], 4, "nobody answers at --flink_master=localhost:"),
        (["--runner=DaskRunner", "--dask_client_address=tcp://localhost:PORT"], 4, "at --dask_client_address=tcp://"),
        (["--runner=SparkRunner", "--spark_master_url=spark://localhost:PORT"], 4, "at --spark_master_url=spark://"),
    ],
)
def test_what_cannot_run_is_said_within_seconds(flags, code, message, coco, tmp_path, capsys):
    if "Dask" in flags[0]:
        pytest.importorskip("distributed")
    start = time.monotonic()
    assert main(command(coco, tmp_path / "out", *(f.replace("PORT", str(free_port())) for f in flags))) == code
    assert time.monotonic() - start < 20
    said = capsys.readouterr().err
    assert message in said
    assert len([line for line in said.strip().splitlines() if "no image yet" not in line]) == 1  # beside the progress
    assert not (tmp_path / "out").exists()  # refused before anything was written


def test_a_pool_that_does_not_answer_is_said_too(portable, coco, tmp_path, capsys):
    flags = [*portable[:-1], f"--environment_config=localhost:{free_port()}"]
    assert main(command(coco, tmp_path / "out", *flags)) == 4
    assert "nobody answers at --environment_config=localhost:" in capsys.readouterr().err


def test_relative_paths_are_refused_for_workers_elsewhere(coco):
    flink = runners.Runner("FlinkRunner", ("--flink_master=[local]",))
    with pytest.raises(
        UsageError, match=r"--out out is relative, and workers of FlinkRunner have other working folders"
    ):
        check(flink, images=coco.images, out="out")


def test_workers_without_the_package_are_named():
    error = RuntimeError(
        "Traceback ...\nModuleNotFoundError: No module named 'maskmill.pipelines'\n[while running 'x']"
    )
    assert isinstance(runners.explain(error, runners.Runner("FlinkRunner")), InputError)
    assert "do not have maskmill" in str(runners.explain(error, runners.Runner("FlinkRunner")))


_OF_A_WORKER = """Traceback (most recent call last):
  File "sdk_worker.py", line 311, in _execute
maskmill.schemas.errors.DamageError: old.tfrecord-00000-of-00001: record 1 is damaged [while running 'ReadFromOld']

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "remeasure.py", line 70, in measure_shard
{last} [while running 'MeasureShard-ptransform-25']
"""


@pytest.mark.parametrize(
    ("last", "error"),
    [
        ("maskmill.schemas.errors.DamageError: a-00001: record 0: CRC", DamageError("a-00001: record 0: CRC")),
        ("maskmill.schemas.errors.InputError: no such: place", InputError("no such: place")),
    ],
)
def test_what_a_worker_in_another_process_ended_with_is_known_by_its_text(last, error):
    text = _OF_A_WORKER.format(last=last)
    for said in (text, text.replace("\n", "\\n")):  # the latter from engines in Java
        found = runners.cause_of(RuntimeError(said))
        assert (type(found), str(found)) == (type(error), str(error))
        found = runners.explain(RuntimeError(said), runners.Runner("FlinkRunner"))
        assert (type(found), str(found)) == (type(error), str(error))


def test_a_disk_that_is_full_for_a_worker_is_known_by_its_text():
    last = "OSError: [Errno 28] No space left on device: '/out/x.incomplete' [while running 'BuildPart']"
    found = runners.cause_of(RuntimeError(f"Traceback:\n{last}\n"))
    assert (found.errno, found.filename, found.strerror) == (28, "/out/x.incomplete", "No space left on device")
    assert runners.cause_of(RuntimeError("ValueError: maskmill.schemas.errors.DamageError: quoted")) is None


@pytest.mark.slow
def test_damage_found_in_another_process_is_exit_5_and_one_sentence(coco, tmp_path, capfd):
    folder = tmp_path / "data"
    build(coco, str(folder), RunOptions(workers=0), quiet=True)
    shard = next(folder.glob("*.tfrecord-*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    processes = ["--", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    assert main(["report", str(folder), "--from-shards", "--out", str(tmp_path / "report"), *processes]) == 5
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("maskmill: ")]
    assert len(said) == 1
    assert shard.name in said[0]


def test_a_failed_job_is_one_sentence():
    text = "java.lang.RuntimeException: Error from worker:\nTraceback (most recent call last):\n  File ...\n"
    text += "OSError: [Errno 5] disk gone [while running 'BuildPart-ptransform-3']\n"
    said = str(runners.explain(RuntimeError(text), runners.Runner("FlinkRunner")))
    assert said.startswith("the job on FlinkRunner failed (OSError: [Errno 5] disk gone); its workers' logs say more")


def test_what_a_job_server_in_java_says_of_a_lost_worker():
    """As Flink 1.16.3 with Beam's runner 2.54 said it, when the pool was killed."""
    name = "org.apache.beam.vendor.grpc.v1p60p1.io.grpc.StatusRuntimeException"
    text = f"Pipeline BeamApp-root-1125_33656a7c failed in state FAILED: {name}: {name}: CANCELLED: client cancelled"
    said = str(runners.explain(RuntimeError(text), runners.Runner("PortableRunner")))
    assert said.startswith(
        "the job on PortableRunner failed (StatusRuntimeException: CANCELLED: client cancelled); its"
    )


@pytest.mark.parametrize(
    ("debug", "said"), [(False, "maskmill: our own\n"), (True, "maskmill: java.lang.Stack\nmaskmill: our own\n")]
)
def test_what_job_servers_in_java_tell_at_length_is_left_out(debug, said, monkeypatch):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("maskmill: %(message)s"))
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    cli._set_up_logging(debug)
    beam = compile(
        "import logging\nlogging.log(logging.ERROR, '%s', 'java.lang.Stack')", portable_runner.__file__, "exec"
    )
    exec(beam, {})
    logging.getLogger("maskmill").warning("our own")
    assert stream.getvalue() == said


def test_reading_ahead_follows_the_place_of_the_pictures(gcs, coco, tmp_path):
    """Not that of the output: it is the pictures that are waited for."""
    gcs.upload(Path(coco.images), "mill", "images")
    for images, out, ahead in (("gs://mill/images", str(tmp_path), 8), (coco.images, "gs://mill/out", 2)):
        plan = make_plan(BuildConfig("folder", images, ("grid(n=2)",)), out)
        part = graph.BuildPart(out, plan.digest, 60.0, False)
        part.setup()
        assert part.read_ahead == ahead
