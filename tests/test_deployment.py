"""The cluster files of docker/, read by their engines' own rules as far as these can be had without an engine."""

import copy
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from maskmill.pipelines.clusters.runners import choose

DOCKER = Path(__file__).parent.parent / "docker"
COMPOSE = DOCKER / "compose.flink.yaml"
MANIFESTS = sorted((DOCKER / "kubernetes").glob("*.yaml"))
KUBERNETES = ("1.28", "1.32", "1.36")
_PINNED = re.search(r"^ARG BEAM=(\S+)$", (DOCKER / "worker.Dockerfile").read_text(), re.M)[1]


def resources() -> list[dict]:
    return [one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text())]


def deployed(name: str) -> dict:
    """The pod that a Deployment or Job makes."""
    found = (one for one in resources() if one["metadata"]["name"] == name and "template" in one["spec"])
    return next(found)["spec"]["template"]["spec"]


def properties(text: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in text.strip().splitlines())


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_own_schemas_take_every_resource(version):
    """As an API server of that version would read them, unknown fields refused."""
    validator = pytest.importorskip("kubernetes_validate", reason="the dev extra is not installed")
    found = resources()
    assert sorted({one["kind"] for one in found}) == [
        "ConfigMap",
        "Deployment",
        "Job",
        "PersistentVolumeClaim",
        "Service",
    ]
    for resource in found:
        validator.validate(resource, version, strict=True)
    # the control: what must not pass
    wrong = copy.deepcopy(next(one for one in found if one["kind"] == "Deployment"))
    wrong["spec"]["template"]["spec"]["containers"][0]["imagine"] = "flink:1.20"
    with pytest.raises(validator.ValidationError, match="imagine"):
        validator.validate(wrong, version, strict=True)


def test_services_find_their_pods_and_pods_their_volumes():
    pods = {
        one["metadata"]["name"]: one["spec"]["template"] for one in resources() if "template" in one.get("spec", {})
    }
    labels = [pod["metadata"]["labels"] for pod in pods.values()]
    for service in (one for one in resources() if one["kind"] == "Service"):
        selected = [p for p in pods.values() if service["spec"]["selector"].items() <= p["metadata"]["labels"].items()]
        assert len(selected) == 1
        offered = {port["containerPort"] for c in selected[0]["spec"]["containers"] for port in c.get("ports", [])}
        assert {port["port"] for port in service["spec"]["ports"]} <= offered
    assert len({tuple(sorted(one.items())) for one in labels}) == len(labels)
    claims = {one["metadata"]["name"] for one in resources() if one["kind"] == "PersistentVolumeClaim"}
    maps = {one["metadata"]["name"]: one["data"] for one in resources() if one["kind"] == "ConfigMap"}
    for pod in pods.values():
        volumes = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["spec"].get("volumes", [])}
        assert set(volumes.values()) <= claims
        for container in pod["spec"]["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes.keys()
            for variable in container.get("env", []):
                reference = variable["valueFrom"]["configMapKeyRef"]
                assert reference["key"] in maps[reference["name"]]


def test_compose_is_read_as_compose_reads_it():
    """By `docker compose` where it is; else by an implementation of the specification."""
    settings = {"MASKMILL_IMAGE": "image:1", "MASKMILL_DATA": "/srv"}
    docker = shutil.which("docker")
    command = [docker, "compose", "-f", str(COMPOSE), "--profile", "submit", "config"]
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True).returncode == 0:
        environment = {**os.environ, **settings}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert set(yaml.safe_load(done.stdout)["services"]) == set(services())
        return
    compose_spec = pytest.importorskip("compose_spec", reason="neither docker compose nor the dev extra is here")
    text = filled(COMPOSE.read_text(), settings)
    assert set(compose_spec.PyCompose.from_yaml(text).service_names()) == set(services())
    for good, wrong in (
        ("restart: unless-stopped", "restart: sometimes"),
        ("condition: service_healthy", "condition: service_happy"),
        ("network_mode: service:taskmanager-1", "network_mod: service:taskmanager-1"),
    ):
        assert good in text
        with pytest.raises(ValueError, match=r"\S"):
            compose_spec.PyCompose.from_yaml(text.replace(good, wrong))


def filled(text: str, values: dict[str, str]) -> str:
    """With variables in their places, and anchors and merges resolved."""
    text = re.sub(r"\$\{(\w+)(?::[-?]([^}]*))?\}", lambda m: values.get(m[1], m[2] or ""), text)
    content = yaml.safe_load(text)
    return yaml.dump({name: value for name, value in content.items() if not name.startswith("x-")}, sort_keys=False)


def services() -> dict[str, dict]:
    return yaml.safe_load(COMPOSE.read_text())["services"]


def test_flink_goes_on_by_itself_in_both():
    compose = properties(services()["taskmanager-1"]["environment"]["FLINK_PROPERTIES"])
    kubernetes = properties(next(one for one in resources() if one["kind"] == "ConfigMap")["data"]["properties"])
    for found in (compose, kubernetes):
        assert found["restart-strategy.type"] == "fixed-delay"
        assert int(found["restart-strategy.fixed-delay.attempts"]) >= 100
    assert all(services()[name]["restart"] == "unless-stopped" for name in services() if name != "maskmill")


def test_every_taskmanager_has_a_pool_at_its_localhost_and_sees_what_is_staged():
    mine = services()
    managers = {name for name in mine if name.startswith("taskmanager-")}
    pools = {one["network_mode"].removeprefix("service:") for name, one in mine.items() if name.startswith("pool-")}
    assert managers == pools
    assert len(managers) == 2
    staged = "/tmp/beam-artifact-staging"
    assert f"--artifacts-dir={staged}" in mine["job-server"]["command"]
    assert all(f"artifacts:{staged}:ro" in mine[name]["volumes"] for name in managers)
    pod = deployed("maskmill-taskmanager")["containers"]
    assert [one["name"] for one in pod] == ["taskmanager", "pool"]
    (job_server,) = deployed("maskmill-job-server")["containers"]
    assert f"--artifacts-dir={staged}" in job_server["args"]
    mounts = [next(m for m in one["volumeMounts"] if m["mountPath"] == staged) for one in (pod[0], job_server)]
    assert mounts[0]["subPath"] == mounts[1]["subPath"]


def test_the_job_servers_own_name_is_an_address_that_it_can_listen_at():
    (job_server,) = deployed("maskmill-job-server")["containers"]
    service = next(
        one for one in resources() if one["kind"] == "Service" and one["metadata"]["name"] == "maskmill-job-server"
    )
    assert "--job-host=maskmill-job-server" in job_server["args"]
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    assert "--job-host=job-server" in services()["job-server"]["command"]  # a container's name is its own address


def test_versions_are_those_of_the_image_and_flags_those_that_a_build_takes():
    assert f"job_server:${{MASKMILL_BEAM:-{_PINNED}}}" in services()["job-server"]["image"]
    (job_server,) = deployed("maskmill-job-server")["containers"]
    assert job_server["image"].endswith(f":{_PINNED}")
    minor = re.search(r"flink(\d+\.\d+)_job", job_server["image"])[1]
    flinks = [c["image"] for n in ("jobmanager", "taskmanager") for c in deployed(f"maskmill-{n}")["containers"]]
    assert {image for image in flinks if image.startswith("flink:")} == {f"flink:{minor}"}
    assert services()["jobmanager"]["image"] == f"flink:{minor}"

    from maskmill.pipelines.commands.cli import build_parser, split_beam_args
    from maskmill.pipelines.commands.options import read_options

    (build,) = deployed("maskmill-build")["containers"]
    said = re.search(r'^# FLAGS="(.*?)"', COMPOSE.read_text().replace("\n#        ", " "), re.M)[1]
    own, beam = split_beam_args(build["command"][1:])
    config, _, out = read_options(build_parser().parse_args(own))
    assert (config.dataset, out) == ("folder", "/data/masks")
    for flags in (beam, shlex.split(said)):
        runner = choose(tuple(flags))
        assert runner.name == "PortableRunner"
        assert runner.option("environment_config") == "localhost:50000"
        runner.check_detached()  # either may be left to itself
