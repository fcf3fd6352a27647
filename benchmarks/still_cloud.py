"""A cloud that repeats what another has answered: what it costs to look, without its own cost.

`python -m benchmarks.still_cloud ENDPOINT` asks the cloud there once for whatever it is asked, and
answers the same from then on, but for records: those of the sweep `busy` have other numbers and
times each second, those of all others a heartbeat every 30 seconds. It prints its own address.
"""

import http.client
import json
import sys
import threading
import time
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from gcloud_ops.contract import timestamp

type Reply = tuple[int, list[tuple[str, str]], bytes]

_DROPPED = {"transfer-encoding", "content-length", "connection", "date", "server"}


class Memory:
    """What the other cloud has answered."""

    def __init__(self, endpoint: str) -> None:
        self._address = urlsplit(endpoint).netloc
        self._replies: dict[tuple[str, str], Reply] = {}
        self._moved: dict[tuple[str, str], tuple[int, bytes]] = {}
        self._lock = threading.Lock()

    def reply(self, method: str, path: str, body: bytes, headers: Any) -> Reply:
        """The answer to a call."""
        key = (method, path)
        with self._lock:
            if key not in self._replies:
                self._replies[key] = self._ask(method, path, body, headers)
            status, kept, content = self._replies[key]
            if "%2Frecords" in path or "/records" in path:
                content = self._move(key, content, is_busy="busy" in path)
        return status, kept, content

    def _ask(self, method: str, path: str, body: bytes, headers: Any) -> Reply:
        connection = http.client.HTTPConnection(self._address, timeout=60)
        passed = {name: value for name, value in headers.items() if name.lower() != "host"}
        passed["Accept-Encoding"] = "identity"
        connection.request(method, path, body or None, passed)
        answer = connection.getresponse()
        content = answer.read()
        kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in _DROPPED]
        connection.close()
        return answer.status, kept, content

    def _move(self, key: tuple[str, str], content: bytes, *, is_busy: bool) -> bytes:
        second = int(time.time()) if is_busy else int(time.time()) // 30 * 30
        if self._moved.get(key, (0, b""))[0] != second:
            self._moved[key] = second, _moved(content, second, is_busy=is_busy)
        return self._moved[key][1]


def _moved(content: bytes, second: int, *, is_busy: bool) -> bytes:
    listing = json.loads(content)
    for number, item in enumerate(listing.get("items", [])):
        record = json.loads(item["metadata"]["record"])
        record["updated"] = timestamp(datetime.fromtimestamp(second, UTC))
        if is_busy:
            record["progress"] = {
                "episode": second % 900,
                "episodes": 1000,
                "timesteps": second % 10_000 * 100 + number,
                "total_timesteps": 1_500_000,
                "mean_reward": -500 + (second * 7 + number * 13) % 400,
            }
        item["metadata"]["record"] = json.dumps(record)
        item["generation"] = str(int(item["generation"]) + second)
    return json.dumps(listing).encode()


class _Caller(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, memory: Memory, *arguments: Any) -> None:
        self._memory = memory
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Repeat."""
        self._repeat()

    def do_POST(self) -> None:
        """Repeat."""
        self._repeat()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""

    def _repeat(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, headers, content = self._memory.reply(self.command, self.path, body, self.headers)
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def main() -> None:
    """Serve until the process is ended."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Caller, Memory(sys.argv[1])))
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
