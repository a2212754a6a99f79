"""Builds from and to gs://, against an object store on loopback that fails on request."""

import dataclasses
import json
import os
import random
import threading
from pathlib import Path

import pytest
from drawn import content, write_coco

from maskmill.pipelines.commands.cli import main
from maskmill.pipelines.dataset.validate import find_damage
from maskmill.pipelines.driver.build import build
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
from maskmill.pipelines.parts.plan import load_plan
from maskmill.schemas import gcs_files, storage
from maskmill.schemas.errors import InputError
from maskmill.schemas.reader import Dataset

IN_PROCESS = RunOptions(workers=0, part_size=10)
OUT = "gs://mill/out"


@pytest.fixture
def remote(gcs, coco) -> BuildConfig:
    """The drawn data set, in the bucket."""
    gcs.upload(Path(coco.images), "mill", "images")
    storage.write_bytes("gs://mill/instances.json", Path(coco.annotations).read_bytes())
    return dataclasses.replace(coco, images="gs://mill/images", annotations="gs://mill/instances.json")


@pytest.fixture(scope="module")
def reference(coco, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("reference")
    build(coco, str(out), IN_PROCESS, quiet=True)
    return shards(content(out))


def shards(files: dict[str, bytes]) -> dict[str, bytes]:
    """Without the manifest, whose `plan_digest` depends on where the pictures were read."""
    return {name: data for name, data in files.items() if name != "manifest.json"}


def fetch(folder: str) -> dict[str, bytes]:
    wanted = [n for n in storage.names(folder) if ".tfrecord-" in n or n in ("manifest.json", "failures.jsonl")]
    return {name: storage.read_bytes(storage.join(folder, name)) for name in sorted(wanted)}


def test_a_build_from_and_to_gs_is_the_local_one(remote, reference, tmp_path, capsys):
    args = ["--dataset", "coco", "--images", remote.images, "--annotations", remote.annotations, "--workers", "1"]
    args += [part for spec in remote.masks for part in ("--masks", spec)]
    assert main(["build", *args, "--out", OUT, "--part-size", "10"]) == 0
    assert shards(fetch(OUT)) == reference
    assert not [name for name in storage.names(f"{OUT}/_work/parts") if name.endswith(".tfrecord")]

    assert main(["build", *args, "--out", OUT, "--part-size", "10"]) == 0
    assert "was complete already" in capsys.readouterr().out
    assert main(["status", OUT]) == 0
    assert capsys.readouterr().out.startswith("finished")
    assert main(["validate", OUT]) == 0
    assert "valid: 40 records" in capsys.readouterr().out
    assert main(["retry", OUT, "--workers", "0"]) == 0
    assert main(["view", OUT, "5", "--out", str(tmp_path / "view.png")]) == 0
    assert (tmp_path / "view.png").stat().st_size > 1000
    assert main(["view", OUT, "5", "--out", "gs://mill/view.png"]) == 0
    assert storage.size("gs://mill/view.png") == (tmp_path / "view.png").stat().st_size


def test_every_command_that_reads_says_of_gs_what_it_says_of_a_copy(remote, gcs, tmp_path, capsys):
    """Nothing in a folder depends on where it lies: the same bytes, and the same words about them."""
    build(remote, OUT, IN_PROCESS, quiet=True)
    copy = tmp_path / "copy"
    for name, _ in storage.walk(OUT):
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(storage.read_bytes(f"{OUT}/{name}"))

    def said(*command: str) -> str:
        assert main(list(command)) == 0, capsys.readouterr().err
        return capsys.readouterr().out.replace(str(copy), OUT)

    for command in (["status"], ["status", "--json"], ["validate"], ["validate", "--json"], ["report", "--json"]):
        assert said(command[0], OUT, *command[1:]) == said(command[0], str(copy), *command[1:])
        assert said(command[0], OUT, *command[1:]).strip()
    assert said("report", OUT) == said("report", str(copy))
    assert storage.read_bytes(f"{OUT}/report.html") == (copy / "report.html").read_bytes()
    measured = ["--from-shards", "--json", "--out", str(tmp_path / "measured")]
    assert said("report", OUT, *measured) == said("report", str(copy), *measured)
    audited = ["--annotations", "gs://mill/instances.json", "--json", "--out", str(tmp_path / "audited")]
    assert said("report", OUT, *audited) == said("report", str(copy), *audited)
    one, other = (json.loads(said("compare", *both, "--json")) for both in ((OUT, str(copy)), (str(copy), OUT)))
    assert one.pop("sides") == other.pop("sides")[::-1] == ["out", "copy"]
    assert one == other
    for kind, flags in (("view.png", []), ("view.html", ["--html"])):
        for folder, target in ((OUT, f"gs://mill/{kind}"), (str(copy), str(tmp_path / kind))):
            assert main(["view", folder, "5", "--out", target, *flags]) == 0
        drawn = storage.read_bytes(f"gs://mill/{kind}"), (tmp_path / kind).read_bytes()
        assert drawn[0].replace(OUT.encode(), b"") == drawn[1].replace(str(copy).encode(), b"")

    # It is gs:// that was read.
    shard = f"{OUT}/coco-train.tfrecord-00001-of-00002"
    storage.write_bytes(shard, storage.read_bytes(shard)[:-1] + b"x")
    assert main(["validate", OUT]) == 5
    assert main(["validate", str(copy)]) == 0


def test_where_the_inputs_lay_changes_the_identity_of_the_inputs_and_nothing_else(remote, coco, gcs, tmp_path):
    build(remote, OUT, IN_PROCESS, quiet=True)
    build(coco, str(tmp_path), IN_PROCESS, quiet=True)
    there, here = (json.loads(storage.read_bytes(storage.join(f, "manifest.json"))) for f in (OUT, str(tmp_path)))
    assert differing(there, here) == {"plan_digest", "manifest_digest"}
    build(dataclasses.replace(remote), str(tmp_path / "from-gs"), IN_PROCESS, quiet=True)
    assert (tmp_path / "from-gs" / "manifest.json").read_bytes() == storage.read_bytes(f"{OUT}/manifest.json")


def differing(one, other, at: str = "") -> set[str]:
    """Dotted names of the leaves that differ."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return {leaf for key in one for leaf in differing(one[key], other[key], f"{at}.{key}" if at else key)}
    return set() if one == other else {at}


def test_faults_all_along_change_no_byte(remote, reference, gcs):
    rng, lock = random.Random(4), threading.Lock()

    def fault(method, path):
        with lock:
            return rng.choice([429, 503, "torn"]) if rng.random() < 0.03 else None

    gcs.fault = fault
    build(remote, OUT, IN_PROCESS, quiet=True)
    gcs.fault = lambda method, path: None
    assert shards(fetch(OUT)) == reference
    assert list(find_damage(Dataset.open(OUT))) == []


@pytest.mark.parametrize(
    ("status", "words"), [(403, r"access denied \(.*a planned 403"), (404, r"there is no such bucket.*a planned 404")]
)
def test_a_bucket_that_goes_away_in_the_middle_and_comes_back(status, words, remote, reference, gcs):
    gcs.fault = lambda method, path: status if len(gcs.requests) > 150 else None
    with pytest.raises(InputError, match=rf"cannot write to gs://mill/out.*{words}.*goes on"):
        build(remote, OUT, IN_PROCESS, quiet=True)
    gcs.fault = lambda method, path: None
    assert not storage.exists(f"{OUT}/manifest.json")
    build(remote, OUT, IN_PROCESS, quiet=True)
    assert shards(fetch(OUT)) == reference


@pytest.mark.parametrize(
    "lost", ["manifest.json", "coco-train.tfrecord-00001-of-00002", "_work/shards/00000-DIGEST.parts.gz"]
)
def test_whatever_is_lost_is_built_again(lost, remote, reference, gcs):
    build(remote, OUT, IN_PROCESS, quiet=True)
    digest = load_plan(OUT).digest[:8]
    lost = f"{OUT}/{lost.replace('DIGEST', digest)}"
    assert storage.exists(lost)
    storage.remove(lost)
    storage.remove(f"{OUT}/_work/shards/00000-{digest}.json")
    build(remote, OUT, IN_PROCESS, quiet=True)
    assert shards(fetch(OUT)) == reference


def test_overwrite_and_retry(gcs, tmp_path):
    images, annotations = write_coco(tmp_path, 12)
    gcs.upload(Path(images), "mill", "images")
    config = BuildConfig("coco", "gs://mill/images", ("grid(n=2)",), annotations=annotations)
    build(dataclasses.replace(config, seed=5), OUT, IN_PROCESS, quiet=True)
    build(config, OUT, IN_PROCESS, overwrite=True, quiet=True)
    whole = fetch(OUT)
    victim = sorted(os.listdir(images))[3]
    storage.write_bytes(f"gs://mill/images/{victim}", b"")
    storage.remove(f"gs://mill/images/{sorted(os.listdir(images))[4]}")
    build(config, OUT, IN_PROCESS, overwrite=True, quiet=True)
    reasons = [json.loads(line)["reason"] for line in fetch(OUT)["failures.jsonl"].splitlines()]
    assert sorted(reasons) == ["empty_file", "not_found"]
    gcs.upload(Path(images), "mill", "images")
    assert main(["retry", OUT, "--workers", "0"]) == 0
    assert fetch(OUT) == whole


def test_a_finished_build_of_many_shards_is_recognised_without_a_call_for_each_twice(gcs, tmp_path):
    images, _ = write_coco(tmp_path, 40)
    config = BuildConfig("folder", images, ("grid(n=2)",), num_shards=20)
    build(config, OUT, IN_PROCESS, quiet=True)
    before = len(gcs.requests)
    assert not build(config, OUT, IN_PROCESS, quiet=True).built
    assert len(gcs.requests) - before <= 20 + 10  # a sidecar each, and a fixed number of listings and files


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["build", "IMAGES", "--out", "gs://nobody/out"], "cannot write to gs://nobody/out.*there is no such bucket"),
        (["build", "gs://nobody/images", "--out", OUT], "gs://nobody/images not found; --images takes"),
        (["build", "gs://mill/nothing", "--out", OUT], "gs://mill/nothing not found; --images takes"),
        (["status", "gs://nobody/out"], "holds no build"),
        (["validate", "gs://nobody/out"], "not a maskmill data set"),
        (["view", "gs://mill/nothing", "1"], "not a maskmill data set"),
    ],
)
def test_what_is_missing_is_exit_4(command, message, gcs, coco, capsys):
    assert run(command, coco) == 4
    assert_said(capsys, message)


@pytest.mark.parametrize("command", [["build", "IMAGES", "--out", OUT], ["status", OUT], ["validate", OUT]])
@pytest.mark.parametrize("status", [401, 403])
def test_no_permission_is_exit_4(command, status, gcs, coco, capsys):
    gcs.fault = lambda method, path: status
    assert run(command, coco) == 4
    assert_said(capsys, r"gs://mill/out.*(access denied|credentials refused) \(")


@pytest.mark.parametrize("command", [["build", "IMAGES", "--out", OUT], ["status", OUT], ["build", OUT, "--out", "x"]])
def test_no_credentials_is_exit_4(command, coco, capsys, monkeypatch, tmp_path):
    gcs_files._client_of.cache_clear()
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    monkeypatch.chdir(tmp_path)
    assert run(command, coco) == 4
    assert_said(capsys, "no usable Google Cloud credentials.*gcloud auth application-default login")


def run(command: list[str], coco: BuildConfig) -> int:
    command = [coco.images if word == "IMAGES" else word for word in command]
    if command[0] == "build":
        command = ["build", "--dataset", "folder", "--masks", "grid(n=2)", "--workers", "0", "--images", *command[1:]]
    return main(command)


def assert_said(capsys, message: str) -> None:
    import re

    said = capsys.readouterr().err
    assert re.search(message, said)
    assert len(said.strip().splitlines()) == 1


def test_a_shard_that_a_forgotten_job_wrote_over_is_built_again(remote, reference, gcs):
    """Of the same size, so that only the checksum that the bucket keeps tells."""
    build(remote, OUT, IN_PROCESS, quiet=True)
    name = next(n for n in sorted(storage.names(OUT)) if ".tfrecord-" in n)
    data = storage.read_bytes(f"{OUT}/{name}")
    storage.write_bytes(f"{OUT}/{name}", data[:-1] + bytes([data[-1] ^ 1]))
    assert build(remote, OUT, IN_PROCESS, quiet=True).built
    assert shards(fetch(OUT)) == reference
