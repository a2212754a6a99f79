"""In the place of a Flink cluster: its REST interface, and the Java program that Beam starts before it."""

import contextlib
import stat
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FLINK = {"flink-version": "1.20.5", "slots-total": 2, "taskmanagers": 1}


@contextlib.contextmanager
def rest(answer: bytes, status: int = 200):
    """A server that answers every request alike; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def write_java(folder: Path) -> str:
    """In the place of `java -jar JOB-SERVER ...`: keeps its arguments and starts Beam's job service in Python."""
    script = folder / "java"
    script.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        "json.dump(sys.argv[1:], open(os.path.join(os.path.dirname(__file__), 'java.json'), 'w'))\n"
        "port = sys.argv[sys.argv.index('--job-port') + 1]\n"
        "service = 'apache_beam.runners.portability.local_job_service_main'\n"
        "os.execv(sys.executable, [sys.executable, '-m', service, '-p', port])\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)
