"""What is submitted to Dataflow, as a stand-in for the service on loopback received it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from maskmill.pipelines.clusters.runners import JobError, choose
from maskmill.pipelines.commands.cli import main
from maskmill.pipelines.driver.build import build
from maskmill.pipelines.driver.graph import finish
from maskmill.pipelines.parts.config import RunOptions
from maskmill.pipelines.parts.plan import load_plan, make_plan
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError
from maskmill.schemas.manifest import load_manifest

pytest.importorskip("apitools", reason="apache-beam[gcp] is not installed: nothing can be submitted to Dataflow")
OUT = "gs://mill/out"
IMAGE = "europe-docker.pkg.dev/mill/images/worker:1"


@pytest.fixture(scope="module")
def credentials(tmp_path_factory):
    """A service account of a made-up key, whose tokens a server on loopback gives: none would mean minutes of asking."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    class Tokens(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps({"access_token": "token", "expires_in": 3600, "token_type": "Bearer"}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Tokens)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("credentials") / "key.json"
    account = {
        "type": "service_account",
        "project_id": "mill",
        "private_key_id": "1",
        "private_key": key.decode(),
        "client_email": "miller@mill.example",
        "client_id": "1",
        "token_uri": f"http://127.0.0.1:{server.server_port}/token",
    }
    path.write_text(json.dumps(account))
    yield str(path)
    server.shutdown()
    server.server_close()


@pytest.fixture
def dataflow(credentials, monkeypatch):
    from dataflow import Dataflow

    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", credentials)
    monkeypatch.setenv("GOOGLE_AUTH_TRUST_BOUNDARY_ENABLED", "false")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    service = Dataflow()
    yield service
    service.close()


@pytest.fixture
def pictures(gcs, coco) -> str:
    gcs.upload(Path(coco.images), "mill", "images")
    return "gs://mill/images"


def command(images: str, dataflow, *beam: str, out: str = OUT) -> list[str]:
    flags = [
        "--runner=DataflowRunner",
        "--project=mill-project",
        "--region=europe-west4",
        "--temp_location=gs://mill/tmp",
    ]
    flags += [f"--dataflow_endpoint={dataflow.endpoint}", "--no_auth", *beam]
    own = ["build", "--dataset", "folder", "--name", "My_photos", "--images", images, "--masks", "grid(n=2)"]
    return [*own, "--out", out, "--", *flags]


def work(images: str) -> None:
    """What the workers would do: build all that is missing."""
    from maskmill.pipelines.parts.config import BuildConfig

    config = BuildConfig("folder", images, ("grid(n=2)",), name="My_photos")
    build(config, OUT, RunOptions(workers=0), quiet=True)


def test_the_job_that_is_posted(dataflow, pictures, gcs, capsys):
    dataflow.when_posted = lambda: work(pictures)
    assert main(command(pictures, dataflow, f"--sdk_container_image={IMAGE}", "--max_num_workers=100")) == 0
    said = capsys.readouterr()
    assert "https://console.cloud.google.com/dataflow/jobs/europe-west4/2026-01-01_job?project=mill-project" in said.err
    assert "inputs 40 = written 40" in said.out
    assert load_manifest(OUT).num_records == 40

    (job,) = dataflow.jobs
    plan = load_plan(OUT)
    assert job["name"] == f"maskmill-my-photos-train-{plan.digest[:8]}"
    assert job["labels"]["application"] == "maskmill"
    environment = job["environment"]
    pool = environment["workerPools"][0]
    assert pool["machineType"] == "n2-standard-4"
    assert pool["diskSizeGb"] == 50
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 100
    assert pool["numWorkers"] == 1  # 40 pictures are not worth timing
    assert pool["numThreadsPerWorker"] == 1
    images = {image["containerImage"] for image in pool["sdkHarnessContainerImages"]}
    assert images == {IMAGE}
    # One process of Python for each core, not one for the machine.
    assert all(image["useSingleCorePerContainer"] for image in pool["sdkHarnessContainerImages"])
    options = environment["sdkPipelineOptions"]["options"]
    assert options["number_of_worker_harness_threads"] == 1
    assert options["sdk_location"] == "container"
    assert not options.get("save_main_session")
    # All four processes of a machine together; in one environment, or every machine would run the processes of two.
    assert memory_hints() == {b"16000000000"}
    assert len(pool["sdkHarnessContainerImages"]) == 1
    staged = [name for name, _ in storage.walk("gs://mill/tmp")]
    assert not [name for name in staged if "main_session" in name or name.endswith((".whl", ".tar.gz"))]


def memory_hints() -> set[bytes]:
    """How much memory the steps of the staged pipeline that run our code ask for, "" for those that do not."""
    from apache_beam.portability.api import beam_runner_api_pb2

    (staged,) = [name for name, _ in storage.walk("gs://mill/tmp") if name.endswith("pipeline.pb")]
    pipeline = beam_runner_api_pb2.Pipeline.FromString(storage.read_bytes(f"gs://mill/tmp/{staged}"))
    environments = pipeline.components.environments
    used = {t.environment_id for t in pipeline.components.transforms.values() if t.environment_id}
    return {environments[name].resource_hints.get("beam:resources:min_ram_bytes:v1", b"") for name in used}


def test_what_the_user_says_wins(dataflow, pictures, gcs):
    dataflow.when_posted = lambda: work(pictures)
    flags = [f"--sdk_container_image={IMAGE}", "--machine_type=c3-standard-8", "--job_name=mine"]
    assert main(command(pictures, dataflow, *flags, "--number_of_worker_harness_threads=2")) == 0
    (job,) = dataflow.jobs
    assert job["name"] == "mine"
    assert job["environment"]["workerPools"][0]["machineType"] == "c3-standard-8"
    assert memory_hints() == {b""}  # whoever chooses the machine knows what it has
    assert job["environment"]["workerPools"][0]["numThreadsPerWorker"] == 2


@pytest.mark.parametrize(
    ("flags", "machines"),
    [
        ((), 5),  # 40 pictures of 600 s on machines of 4 cores, 20 minutes each
        (("--max_num_workers=3",), 3),
        (("--machine_type=c3-standard-8",), 3),
        (("--num_workers=7",), 7),
    ],
)
def test_a_job_starts_with_as_many_machines_as_its_work_is_worth(flags, machines, coco, tmp_path):
    plan = make_plan(coco, str(tmp_path), 4, lambda config, lines: 600.0)
    assert load_plan(str(tmp_path)) == plan
    asked = choose(("--runner=DataflowRunner", *flags)).flags("mine", 1, 10, plan.seconds_of(len(plan.tasks)))
    assert [flag for flag in asked if flag.startswith("--num_workers")] == [f"--num_workers={machines}"]
    resumed = choose(("--runner=DataflowRunner",)).flags("mine", 1, 2, plan.seconds_of(2))
    assert "--num_workers=1" in resumed


def test_a_job_that_is_left_to_itself(dataflow, pictures, gcs, capsys):
    flags = [f"--sdk_container_image={IMAGE}"]
    args = command(pictures, dataflow, *flags)
    assert main([*args[: args.index("--")], "--detach", *args[args.index("--") :]]) == 0
    said = capsys.readouterr()
    assert "https://console.cloud.google.com/dataflow/jobs/europe-west4/2026-01-01_job" in said.err
    assert f"the job runs by itself, and finishes {OUT}; see how far: maskmill status {OUT}" in said.out
    assert len(dataflow.jobs) == 1
    assert not storage.exists(f"{OUT}/manifest.json")
    assert main(["status", OUT]) == 0
    assert "unfinished: 0 of 40 images" in capsys.readouterr().out


def test_a_template_is_written_and_finishes_itself(dataflow, pictures, gcs, capsys):
    flags = [f"--sdk_container_image={IMAGE}", "--template_location=gs://mill/template"]
    assert main(command(pictures, dataflow, *flags)) == 0
    assert "the job is written down, not started" in capsys.readouterr().out
    assert dataflow.jobs == []
    assert storage.exists("gs://mill/template")
    assert not storage.exists(f"{OUT}/manifest.json")

    plan = load_plan(OUT)
    with pytest.raises(DamageError, match="shard 0 is not complete"):
        finish(0, OUT, plan.digest, 0.01)
    work(pictures)
    storage.remove(f"{OUT}/manifest.json")
    finish(plan.num_shards, OUT, plan.digest, 0.01)
    assert load_manifest(OUT).num_records == 40


def test_a_job_without_a_driver_fails_where_a_driver_would(pictures, gcs):
    """One of 40 pictures cannot be read: the data set is finished all the same, once, and the job fails at 2 %."""
    storage.write_bytes(f"{pictures}/{sorted(storage.names(pictures))[7]}", b"")
    work(pictures)
    storage.remove(f"{OUT}/manifest.json")
    digest = load_plan(OUT).digest
    message = r"1 images failed, a share above --max-failure-rate 2\.00%; everything good is in gs://mill/out"
    with pytest.raises(JobError, match=message):
        finish(1, OUT, digest, 0.02)
    assert load_manifest(OUT).counts["written"] == 39
    before = len([1 for method, _ in gcs.requests if method != "GET"])
    with pytest.raises(JobError, match=message):
        finish(1, OUT, digest, 0.02)
    assert (
        len([1 for method, _ in gcs.requests if method != "GET"]) == before
    )  # Dataflow tries a failing step four times
    finish(1, OUT, digest, 0.03)


@pytest.mark.parametrize(
    ("remove", "add", "code", "message"),
    [
        ("--project", [f"--sdk_container_image={IMAGE}"], 2, "needs --project=PROJECT after --"),
        ("--region", [f"--sdk_container_image={IMAGE}"], 2, "needs --region=REGION after --"),
        ("--temp_location", [f"--sdk_container_image={IMAGE}"], 2, "needs --temp_location=gs://BUCKET/tmp"),
        ("nothing", [], 2, "build an image from docker/worker.Dockerfile"),
        ("nothing", [f"--sdk_container_image={IMAGE}", "--max_workers=5"], 2, "Beam has no option --max_workers; did"),
    ],
)
def test_incomplete_flags_are_refused_in_words(remove, add, code, message, dataflow, pictures, gcs, capsys):
    args = [arg for arg in command(pictures, dataflow, *add) if not arg.startswith(remove)]
    assert main(args) == code
    assert message in capsys.readouterr().err
    assert not storage.exists(f"{OUT}/_work/plan.json")


def test_local_paths_are_refused(dataflow, coco, pictures, gcs, tmp_path, capsys):
    assert main(command(coco.images, dataflow)) == 2
    assert "is on this machine, where Dataflow's workers cannot see it; use gs://" in capsys.readouterr().err
    assert main(command(pictures, dataflow, out=str(tmp_path))) == 2
    assert "--out" in capsys.readouterr().err


def test_without_credentials_it_ends_at_once(dataflow, pictures, gcs, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    args = [a for a in command(pictures, dataflow, f"--sdk_container_image={IMAGE}") if a != "--no_auth"]
    assert main(args) == 4
    assert "no usable Google Cloud credentials" in capsys.readouterr().err


def test_a_refusal_of_the_service_is_one_sentence(dataflow, pictures, gcs, capsys):
    dataflow.status = 403
    assert main(command(pictures, dataflow, f"--sdk_container_image={IMAGE}")) == 1
    assert "the job on DataflowRunner failed (" in capsys.readouterr().err
