"""What the cluster drills promise: whatever they start, they end."""

import contextlib
import os
import subprocess
import sys
import time

import flink
import pytest
from clusters import free_port, service
from drill import MARK, left_over

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
        flink.MissingError,
        match=r"Beam's job server org\.apache\.beam:.* cannot be fetched: mvn is not .*--program JAR$",
    ):
        flink.job_server()


def test_a_changed_download_is_refused_and_removed(tmp_path):
    path = tmp_path / f"apache_flink_libraries-{flink.FLINK}.tar.gz"
    path.write_bytes(b"something else")
    with pytest.raises(flink.MissingError, match=r"has sha256 .*; it was removed"):
        flink._verify(path)
    assert not path.exists()


def test_the_drills_help_needs_no_cluster():
    script = os.path.join(os.path.dirname(__file__), "support", "drill.py")
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)
    assert "--engine {flink,prism,portable}" in done.stdout
