"""Sends what nobody would to every operation of the API: no answer may be a 5xx, or other than its schema says.

    python benchmarks/fuzz_api.py --examples 50

Starts a coordinator and a worker of its own in a temporary directory. Needs ``schemathesis``, in any environment: name
its command with ``--schemathesis`` if it is not on the path.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
LEFT_OUT = "get_events"
"""A WebSocket is none of its business."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=50, help="for each operation")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schemathesis", default="st")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "data"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FLEETEST_")}
        coordinator = subprocess.Popen(
            [sys.executable, "-m", "fleetest", "coordinator", "--port", "0", "--data", str(data)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        worker: subprocess.Popen[str] | None = None
        try:
            assert coordinator.stdout is not None
            address = coordinator.stdout.readline().split()[2]
            worker = subprocess.Popen(
                [sys.executable, "-m", "fleetest", "worker", "--coordinator", address, "--data", str(data)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            )
            url, token = address.replace("ws", "http", 1), (data / "token").read_text().strip()
            make_something(url, token)
            return fuzz(arguments, url, token)
        finally:
            for process in (worker, coordinator):
                if process is not None:
                    process.terminate()
                    process.wait()


def make_something(url: str, token: str) -> None:
    """A run that has ended, so that there is something to be found."""
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {token}"
    commands = [{"name": "good", "argv": ["true"]}, {"name": "bad", "argv": ["false"]}]
    run = session.post(f"{url}/api/v1/runs", json={"suites": [{"kind": "commands", "commands": commands}]}).json()
    while session.get(f"{url}{run['url']}").json()["is_live"]:
        time.sleep(0.1)


def fuzz(arguments: argparse.Namespace, url: str, token: str) -> int:
    command = [
        arguments.schemathesis,
        "run",
        f"{url}/openapi.json",
        "--header",
        f"Authorization: Bearer {token}",
        "--checks",
        CHECKS,
        "--max-examples",
        str(arguments.examples),
        "--seed",
        str(arguments.seed),
        "--exclude-operation-id",
        LEFT_OUT,
        "--exclude-operation-id",
        "post_logout",
    ]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
