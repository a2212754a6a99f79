"""`maskmill cluster check`: every answer a line, refusals in one sentence each; and a job server that goes in the middle."""

import json
import os
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from archives import tar_bytes
from clusters import free_port, job_service, pool_flags, service, worker_pool
from stand_ins import FLINK, rest, write_java

from maskmill.pipelines.clusters.checks import Doubt, Found, machine_core_bytes
from maskmill.pipelines.clusters.runners import Runner, choose
from maskmill.pipelines.commands.cli import main
from maskmill.pipelines.driver import check, probe
from maskmill.pipelines.driver.build import build
from maskmill.pipelines.driver.estimate import estimate
from maskmill.pipelines.driver.sampled import Sampled
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
from maskmill.pipelines.parts.part import PARTS
from maskmill.pipelines.reading import webdataset
from maskmill.pipelines.reading.imagenet import ImageNet
from maskmill.schemas import storage
from maskmill.schemas.errors import InputError


def asked(
    capsys, config: BuildConfig, out, *words: str, beam: tuple[str, ...] = ()
) -> tuple[int, dict[str, list[str]]]:
    """Exit code, and about -> [state, text]; the same whether as text or as JSON."""
    command = ["cluster", "check", "--dataset", "folder", "--images", config.images, "--masks", "grid(n=2)"]
    command += ["--out", str(out), *words]
    code = main([*command, "--json", *(["--", *beam] if beam else [])])
    said = capsys.readouterr()
    assert said.err == ""
    return code, {row["about"]: [row["state"], row["text"]] for row in json.loads(said.out)}


def test_a_build_here_is_checked_and_priced(coco, tmp_path, capsys):
    code, found = asked(capsys, coco, tmp_path / "new" / "out")
    assert code == 0
    assert {state for state, _ in found.values()} == {"ok"}
    assert list(found) == ["software", "runner", "pictures", "output", "memory", "pace", "space", "price"]
    assert "40 of 40 inputs to build" in found["pace"][1]
    assert "by simulation" in found["price"][1]
    assert list(tmp_path.iterdir()) == []  # nothing is left behind
    command = ["cluster", "check", "--dataset", "folder", "--images", coco.images, "--masks", "grid(n=2)", "--quick"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", name] for name in list(found)[:5]]


def test_of_many_files_some_are_listed_and_it_is_said(tmp_path, capsys, monkeypatch):
    """40 tars of 3 pictures and a line of the ledger each, beside one file that is none; the plan counts all of them."""
    images = tmp_path / "images"
    images.mkdir()
    png = cv2.imencode(".png", np.full((8, 8, 3), 7, np.uint8))[1].tobytes()
    for i in range(40):
        (images / f"{i:02d}.tar").write_bytes(tar_bytes({f"{n}.png": png for n in range(3)} | {"x.left": b"?"}))
    (images / "notes.txt").write_text("beside them")
    looked = []
    usual = webdataset.list_samples
    monkeypatch.setattr(webdataset, "list_samples", lambda shard: looked.append(shard.name) or usual(shard))
    config = BuildConfig("webdataset", str(images), ("grid(n=2)",))
    command = ["cluster", "check", "--dataset", "webdataset", "--images", config.images, "--masks", "grid(n=2)"]
    assert main([*command, "--out", str(tmp_path / "out"), "--json"]) == 0
    found = {row["about"]: row["text"] for row in json.loads(capsys.readouterr().out)}
    assert found["pace"].startswith(
        "by 16 of 40 files, the others were not looked at: about 120 of 162 inputs to build"
    )
    assert len(looked) == 16
    cost = estimate(config, "", 1)
    assert (cost.inputs, cost.to_build, cost.listed, cost.there) == (161, 120, 1, 1)
    assert len(looked) == 56


def test_of_many_tars_inside_a_tar_some_are_listed(gcs):
    inner = {f"n{i:08d}.tar": tar_bytes({f"n{i:08d}_{n}.JPEG": b"x" for n in range(2)}) for i in range(20)}
    storage.write_bytes("gs://mill/train.tar", tar_bytes(inner))
    some = Sampled(ImageNet("gs://mill/train.tar"), 4)
    found = list(some.list_inputs())
    assert {one.synset for one in found} == {f"n{i:08d}" for i in (0, 5, 10, 15)}
    assert (some.about(len(found)), some.listed, some.there, some.labels) == (40, 4, 20, "")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A job service and a pool."""
    folder, port = tmp_path_factory.mktemp("cluster"), free_port()
    with job_service(folder) as flags, worker_pool(folder, port):
        yield (*flags, *pool_flags(port))


def test_a_job_looks_around_on_the_workers(cluster, coco, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    code, found = asked(capsys, coco, out, "--quick", "--job", beam=cluster)
    assert code == 0, found
    assert list(found) == [
        "software",
        "paths",
        "runner",
        "job server",
        "workers",
        "pictures",
        "output",
        "job",
        "memory",
    ]
    assert found["job"][1].startswith("1 worker on 1 machine with ")
    assert "memory" in found
    assert "workers have" in found["memory"][1]  # which nobody but they could say
    assert not any(out.glob("_work/check-*"))

    ours = probe.software()
    one = {"machine": "m", "process": 1, "cores": 4, "bytes": 8 << 30, "versions": ours, "pictures": ""}
    for change, why in (
        ({"versions": {**ours, "numpy": "0.1"}}, "workers have other software than is here: numpy: '"),
        ({"pictures": "/data/a.jpg: not found"}, "workers cannot read /data/a.jpg: not found"),
    ):
        monkeypatch.setattr(check, "look_around", lambda *given, change=change: [one, {**one, **change}])
        code, found = asked(capsys, coco, out, "--quick", "--job", beam=cluster)
        assert (code, found["job"][0]) == (4, "refused")
        assert found["job"][1].startswith(why)
    two = [one, {**one, "process": 2}, {**one, "machine": "n", "bytes": 4 << 30}]
    monkeypatch.setattr(check, "look_around", lambda *given: two)
    found = asked(capsys, coco, out, "--quick", "--job", beam=cluster)[1]
    assert found["job"][1].startswith("3 workers on 2 machines with 8 cores looked: this software, 1.1 GB a core")


def test_a_folder_that_is_another_one_on_the_workers(coco, tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "look", lambda number, pictures, place: None)  # to a disk of their own
    with pytest.raises(InputError, match=rf"of 3 files that its workers wrote below {tmp_path} 0 are to be seen here"):
        probe.look_around(Runner(), "", str(tmp_path), 3)


def test_another_flink_is_refused_and_the_rest_is_asked_all_the_same(coco, tmp_path, capsys):
    with rest(json.dumps(FLINK).encode()) as address:
        flags = (
            "--runner=FlinkRunner",
            f"--flink_master={address}",
            f"--job_server_java_launcher={write_java(tmp_path)}",
        )
        code, found = asked(capsys, coco, tmp_path, "--quick", beam=flags)
    assert code == 4
    assert found["Flink"] == ["ok", f"somebody answers at {address}"]
    assert found["Flink's version"][0] == "refused"
    assert "is Flink 1.20.5, and the job would be for 2.2; add --flink_version=1.20" in found["Flink's version"][1]
    assert found["workers"] == ["refused", found["workers"][1]]
    assert "which has no maskmill; give --environment_type=EXTERNAL" in found["workers"][1]
    assert found["output"][0] == "ok"


def test_nobody_listens_and_what_rests_on_it_is_not_asked(coco, tmp_path, capsys):
    port = free_port()
    flags = ("--runner=PortableRunner", f"--job_endpoint=localhost:{port}", *pool_flags(free_port()))
    code, found = asked(capsys, coco, tmp_path, "--quick", "--job", beam=flags)
    assert code == 4
    assert found["job server"][0] == "refused"
    assert found["job server"][1].startswith(f"nobody answers at --job_endpoint=localhost:{port} (")
    assert found.keys().isdisjoint({"workers", "job"})
    assert found["memory"][0] == "warn"


def test_buckets_that_are_missing_or_closed(coco, gcs, tmp_path, capsys):
    gcs.upload(Path(coco.images), "mill", "images")
    there = BuildConfig("folder", "gs://mill/images", ("grid(n=2)",))
    code, found = asked(capsys, there, "gs://mill/out", "--quick")
    assert (code, {state for state, _ in found.values()}) == (0, {"ok"})

    code, found = asked(capsys, there, "gs://nobodys/out", "--quick")
    assert (code, found["output"][0]) == (4, "refused")
    assert "cannot write to gs://nobodys/out" in found["output"][1]
    assert "there is no such bucket, or it is not ours to see" in found["output"][1]
    assert found["pictures"][0] == "ok"

    gcs.fault = lambda method, path: 403 if method == "POST" else None
    code, found = asked(capsys, there, "gs://mill/out", "--quick")
    assert code == 4
    assert "access denied" in found["output"][1]
    gcs.fault = lambda method, path: 403 if method == "GET" and "alt=media" in path else None
    code, found = asked(capsys, there, "gs://mill/out", "--quick")
    assert code == 4
    assert found["pictures"][1].startswith("gs://mill/images/")
    assert "cannot be read: access denied" in found["pictures"][1]
    assert all("\n" not in text for _, text in found.values())


def test_paths_that_are_not_there_or_not_ours(coco, tmp_path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for images, code, why in (
        (tmp_path / "nowhere", 4, "nowhere not found"),
        (tmp_path / "empty", 4, "is empty"),
    ):
        config = BuildConfig("folder", str(images), ("grid(n=2)",))
        ended, found = asked(capsys, config, tmp_path / "file" / "out")
        assert ended == code
        assert why in found["pictures"][1]
        assert "part of the path is a file" in found["output"][1]
        assert "price" not in found  # not known, and not asked


def test_a_folder_with_a_build_of_other_software(coco, tmp_path, capsys, monkeypatch):
    from maskmill.pipelines.driver import build as driver

    config = BuildConfig("folder", coco.images, ("grid(n=2)",))
    build(config, str(tmp_path), RunOptions(workers=0), quiet=True)
    code, found = asked(capsys, coco, tmp_path, "--quick")
    assert (code, found["software"][1].endswith("holds a build of just this")) == (0, True)
    ours = driver.versions()
    monkeypatch.setattr(driver, "versions", lambda: {**ours, "scipy": "0.1"})
    code, found = asked(capsys, coco, tmp_path, "--quick")
    assert (code, found["software"][0]) == (4, "refused")
    assert "was begun with other software, which could mix bytes: scipy: " in found["software"][1]
    assert "\n" not in found["software"][1]


DATAFLOW = ("--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://mill/tmp", "--no_auth")


def test_dataflow_is_priced_by_its_machines(coco, gcs, capsys):
    pytest.importorskip("apitools", reason="apache-beam[gcp] is not installed")
    gcs.upload(Path(coco.images), "mill", "images")
    there = BuildConfig("folder", "gs://mill/images", ("grid(n=2)",))
    image = "--sdk_container_image=i"
    code, found = asked(capsys, there, "gs://mill/out", beam=(*DATAFLOW, image, "--max_num_workers=7"))
    assert code == 0, found
    assert found["options"][1] == "r; at most 7 machines n2-standard-4 of 4 cores and 16 GB"
    assert found["temporary"][0] == "ok"
    assert "on 1 machine of 4 cores, $" in found["price"][1]
    code, found = asked(capsys, there, "gs://mill/out", "--quick", beam=(*DATAFLOW, image, "--max_num_wokers=7"))
    assert code == 4
    assert "Beam has no option --max_num_wokers; did you mean '--max_num_workers'?" in found["options"][1]


@pytest.mark.parametrize(
    ("machine", "cores", "gigabytes"),
    [
        ("n2-standard-8", 8, 4),
        ("e2-highmem-16", 16, 8),
        ("n1-standard-4", 4, 3.75),
        ("c2d-highcpu-32", 32, 1),
        ("n2-custom-6-30720", 6, 5),
        ("custom-4-8192", 4, 2),
        ("a-tpu", 1, None),
    ],
)
def test_machines_by_their_names(machine, cores, gigabytes):
    assert Runner("DataflowRunner", (f"--machine_type={machine}",)).machine_cores == cores
    assert machine_core_bytes(machine) == (None if gigabytes is None else gigabytes * 2**30)


def test_memory_that_is_too_little_is_a_warning(coco):
    with pytest.raises(Doubt, match="a core is too little: use machines with more memory"):
        check._memory(coco, Found(4, 600 << 20))
    assert "pictures above" in check._memory(coco, Found(4, 2 << 30))


def test_wrong_use_is_wrong_use(coco, tmp_path, capsys):
    own = ["cluster", "check", "--dataset", "folder", "--images", coco.images, "--masks", "grid(n=2)"]
    assert main(own) == 2
    assert "--out is missing" in capsys.readouterr().err
    assert main([*own, "--out", str(tmp_path), "--", "--runner=Nonsense"]) == 2
    assert main(["cluster", "chek"]) == 2
    assert "invalid choice: 'chek'" in capsys.readouterr().err
    assert choose(("--runner=dask",)).name == "DaskRunner"


def test_a_job_server_that_goes_in_the_middle(cluster, coco, tmp_path, capsys):
    out, port = tmp_path / "out", free_port()
    command = ["build", "--dataset", "folder", "--images", coco.images, "--masks", "grid(n=2)", "--part-size", "1"]
    command += ["--limit", "16", "--out", str(out), "--workers", "0", "--"]
    jobs = [sys.executable, "-m", "apache_beam.runners.portability.local_job_service_main", "-p", str(port)]
    with service(jobs, port=port, log=tmp_path / "jobs.log") as process:

        def kill_in_the_middle() -> None:
            while not list((out / "_work" / PARTS).glob("*.json")):
                time.sleep(0.005)
            os.kill(process.pid, 9)

        killer = threading.Thread(target=kill_in_the_middle)
        killer.start()
        endpoint = f"--job_endpoint=localhost:{port}"
        assert main([*command, "--runner=PortableRunner", endpoint, *cluster[2:]]) == 1
        killer.join()
    said = capsys.readouterr().err.strip().splitlines()
    said = [line for line in said if "no image yet" not in line]  # the progress
    assert len(said) == 1, said
    assert said[0].startswith(f"maskmill: the job server at {endpoint} does not answer any more")
    committed = len(list((out / "_work" / PARTS).glob("*.json")))
    assert 0 < committed < 16
    assert main([*command, *cluster]) == 0, capsys.readouterr().err
    assert "inputs 16 = written 16" in capsys.readouterr().out
