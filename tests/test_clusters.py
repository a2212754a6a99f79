"""What the cluster drills promise: whatever they start, they end."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fetched
import flink
import pytest
from clusters import Cluster, Killable, Loss, free_port, service
from drill import Done, Drill, DrillError, Row, Spent, run_in_pieces, said, table
from fetched import MissingError
from machines import machines
from processes import MARK, left_over

_STUBBORN = """
import signal, socket, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(600)
"""


def test_a_service_ends_with_all_that_it_started(tmp_path):
    port = free_port()
    mark = f"test-{os.getpid()}-{port}"
    command = [sys.executable, "-c", _STUBBORN, str(port)]
    with contextlib.suppress(KeyboardInterrupt), service(command, port=port, log=tmp_path / "log", **{MARK: mark}):
        assert len(left_over(mark)) == 2
        raise KeyboardInterrupt
    deadline = time.monotonic() + 5
    while left_over(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left_over(mark) == []


def test_what_cannot_be_fetched_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        MissingError, match=r"^Beam's runner org\.apache\.beam:.* cannot be fetched: mvn is not .*=JAR$"
    ):
        flink.job_server()
    assert list((tmp_path / "maskmill").iterdir()) == []  # nothing half fetched is taken for whole


def test_what_was_fetched_is_fetched_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []

    def fetch(command, what, **options):
        asked.append(what)
        folder = next(word for word in command if word.startswith("-DoutputDirectory=")).partition("=")[2]
        (Path(folder) / "a.jar").touch()

    monkeypatch.setattr(fetched, "fetch", fetch)
    for _ in range(2):
        (jar,) = fetched.runner_jars("beam-runners-x", "1.0")
        assert jar == str(tmp_path / "maskmill" / "beam-runners-x-1.0" / "a.jar")
    assert asked == ["Beam's runner org.apache.beam:beam-runners-x:1.0"]


def test_machines_see_one_another_and_nothing_else():
    """Where root may make namespaces; elsewhere all machines are this one."""
    listen = "import socket; s = socket.create_server(('0.0.0.0', 5000)); print('up', flush=True); s.accept()"
    call = "import socket, sys; socket.create_connection((sys.argv[1], 5000), timeout=5)"
    with machines("abc") as hosts:
        if not hosts.apart:
            assert {hosts.address(name) for name in "abc"} == {"127.0.0.1"}
            assert hosts.at("b") == []
            return
        server = subprocess.Popen([*hosts.at("b"), sys.executable, "-c", listen], stdout=subprocess.PIPE)
        try:
            assert server.stdout.readline() == b"up\n"
            for address, code in (("127.0.0.1", 1), (hosts.address("b"), 0)):
                asked = [*hosts.at("c"), sys.executable, "-c", call, address]
                assert subprocess.run(asked, capture_output=True).returncode == code
        finally:
            server.kill()
            server.wait()
        routes = subprocess.run([*hosts.at("c"), "ip", "route"], capture_output=True, text=True, check=True).stdout
        assert routes.split()[:3] == ["10.77.0.0/24", "dev", "eth0"]
        assert len(routes.strip().splitlines()) == 1
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert f"maskmill-{os.getpid()}" not in listed


def test_a_loss_is_sudden_and_takes_all_of_it(tmp_path):
    with contextlib.ExitStack() as stack:

        @contextlib.contextmanager
        def start():
            with service([sys.executable, "-c", _STUBBORN, str(port)], port=port, log=tmp_path / "log") as process:
                yield [process]

        port = free_port()
        pool = Killable(start, stack)
        first = pool._processes[0]
        pool.kill()
        assert first.poll() == -signal.SIGKILL
        pool.replace()
        assert pool._processes[0].poll() is None
    assert pool._processes[0].poll() is not None


def test_a_table_says_where_bytes_differ():
    rows = [
        Row("local", "1 host", "-", "4 images", "a" * 64, 2.0),
        Row("X", "2", "pool", "done", "b" * 64, 3.0, 1, "+1"),
    ]
    lines = table(rows).splitlines()
    assert lines[2] == f"| local | 1 host | - | 4 images | {'a' * 12} = | 2 s |  |"
    assert lines[3] == f"| X | 2 | pool | done | {'b' * 12} differs | 3 s | +1 |"


class TwoLosses:
    """An engine that builds by copying; how often each scenario was run."""

    def __init__(self, monkeypatch, folder):
        self.ran = []
        content = {"a": b"x"}
        monkeypatch.setattr("drill.content", lambda folder: content)
        monkeypatch.setattr("drill.lose", lambda drill, out, *args: self.ran.append(out) or "lost")
        monkeypatch.setattr("drill.leave", lambda drill, out, *args: self.ran.append(out) or "left")
        monkeypatch.setattr(Drill, "build", lambda drill, out, *flags: self.ran.append(out) or Spent(1, 1))
        monkeypatch.setattr(Drill, "sidecars", lambda drill, out: {})
        self.drill = Drill("", "", (), folder, 1, say=lambda line: None)

    @contextlib.contextmanager
    def __call__(self, folder):
        losses = [Loss(what, lambda: None, lambda: None, heals=True) for what in ("pool", "server")]
        yield Cluster([], losses, [], "1")


def test_a_drill_in_pieces_does_each_scenario_once(monkeypatch, tmp_path):
    engine = TwoLosses(monkeypatch, tmp_path)
    path = tmp_path / "rows.jsonl"
    Done.read(path).add(Row("local", "1 host", "-", "4 images", "a" * 64, 2.0))
    for pieces in range(1, 6):
        done = Done.read(path)
        assert len(done.rows) == min(pieces, 5)
        assert run_in_pieces(engine.drill, "X", engine, done, 0.0) == 0  # the deadline is over after each
    assert engine.ran == ["X/out", "X/left", "X/pool-lost", "X/server-lost"]
    assert Done.read(path).whole == {"X"}
    assert [row.scenario for row in Done.read(path).rows] == ["clean", "clean", "detach", "pool", "server"]
    assert table(Done.read(path).rows).count("\n") == 6


def test_a_failed_job_that_says_more_than_a_sentence_is_no_success(tmp_path):
    log = tmp_path / "log"
    log.write_text("maskmill: 3 of 4 images\n\nmaskmill: the job failed\n")
    assert said(log) == "maskmill: the job failed"
    log.write_text("java.lang.RuntimeException\n\tat org.apache\nmaskmill: the job failed\n")
    with pytest.raises(DrillError, match=r"more than one sentence: java\.lang\.RuntimeException$"):
        said(log)


def test_the_drills_help_needs_no_cluster():
    script = os.path.join(os.path.dirname(__file__), "support", "drill.py")
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)
    assert "of flink, spark, dask, portable, prism" in done.stdout
