"""A stand-in for the Dataflow service on loopback: takes a job, keeps it, and says that it is done."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Dataflow:
    """The service.

    Attributes:
        endpoint: for --dataflow_endpoint.
        jobs: what was posted.
        when_posted: called once a job is posted, before the answer: does what the workers would do.
        status: HTTP status of the answer to a post.
    """

    def __init__(self) -> None:
        self.jobs: list[dict] = []
        self.when_posted = lambda: None
        self.status = 200
        service = self

        class Handler(BaseHTTPRequestHandler):
            def _send(self, value: dict, status: int = 200) -> None:
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _job(self, state: str) -> dict:
                return {"id": "2026-01-01_job", "name": service.jobs[-1]["name"], "currentState": state}

            def do_POST(self):
                posted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if service.status != 200:
                    self._send({"error": {"code": service.status, "message": "a planned refusal"}}, service.status)
                    return
                service.jobs.append(posted)
                service.when_posted()
                self._send(self._job("JOB_STATE_PENDING"))

            def do_GET(self):
                self._send({} if "messages" in self.path or "metrics" in self.path else self._job("JOB_STATE_DONE"))

            def log_message(self, format, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True, name="dataflow").start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
