"""Real-time recommendations: an event sent over REST changes the next response.

Trains a small model on the simulated film catalog, starts ``segue serve`` on a free local port, asks for
recommendations, sends three events, and asks again.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import segue


def request(url: str, body: Any = None) -> Any:
    """Send a GET, or a POST with a JSON body, and return the parsed response."""
    data = None if body is None else json.dumps(body).encode()
    call = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(call, timeout=10) as response:
        return json.load(response)


def wait_until_ready(url: str, seconds: float = 60) -> None:
    """Poll the readiness endpoint of the service."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            request(f"{url}/readyz")
            return
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def main() -> None:
    model = segue.train("gru4rec", "simulated?users=300&items=120&seed=1", epochs=5, embedding_dim=32)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        segue.export(model, Path(folder) / "artifact")
        command = [sys.executable, "-m", "segue", "serve", str(Path(folder) / "artifact"), "--port", str(port)]
        service = subprocess.Popen(command, env=os.environ | {"SEGUE_HOME": folder})
        try:
            wait_until_ready(url)
            before = request(f"{url}/v1/recommend", {"user": "new-user", "k": 5})
            print("before:", [item["id"] for item in before["items"]])
            for item in before["items"][:3]:
                request(f"{url}/v1/events", {"user": "new-user", "item": item["id"]})
            after = request(f"{url}/v1/recommend", {"user": "new-user", "k": 5})
            print("after: ", [item["id"] for item in after["items"]])
            assert after["items"] != before["items"], "the events changed nothing"
        finally:
            service.terminate()
            service.wait(30)


if __name__ == "__main__":
    main()
