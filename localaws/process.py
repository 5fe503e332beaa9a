"""Start a localaws as a process of its own: for tests, demo and benchmarks.

>>> with LocalAws(env={"LOCALAWS_EMR_STARTING_SECONDS": "0"}) as aws:
...     emr = aws.client("emr")
...     aws.set_faults([{"service": "emr", "operation": "ListSteps", "kind": "throttle"}])
...     print(aws.endpoint_url, aws.calls(), aws.clusters())
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from localaws.settings import ACCESS_KEY, REGION, ROOT, SECRET_KEY

START_TIMEOUT = 60.0
STOP_TIMEOUT = 20.0


class LocalAwsError(RuntimeError):
    """A localaws that did not start, or refused a control request."""


class LocalAws:
    """A localaws on a port of its own, which ends with the process that started it.

    Args:
        port: 0 takes a free one.
        data: folder that keeps its state over a restart; none keeps nothing.
        env: ``LOCALAWS_*`` settings on top of this process's environment.
        seed: deploy the templates of ``include/infra`` at start.
    """

    def __init__(
        self,
        port: int = 0,
        data: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        seed: bool = True,
    ) -> None:
        self._argv = [sys.executable, "-m", "localaws", "--until-stdin-ends", "--port", str(port)]
        self._argv += ["--data", str(data)] if data else []
        self._argv += [] if seed else ["--no-seed"]
        self._env = {**os.environ, **(env or {})}
        # the server must not take itself for its own client's endpoint or wait for a proxy
        self._env.pop("AWS_ENDPOINT_URL", None)
        self._env["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(ROOT), self._env.get("PYTHONPATH")])
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._printed = ""
        self.endpoint_url = ""

    def __enter__(self) -> LocalAws:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> LocalAws:
        """Start it and wait until it is seeded.

        Raises:
            LocalAwsError: it ended or did not answer in time; with the end of its log.
        """
        # nameless, so that nothing is left of it if this process is killed; closed by stop()
        self._log = tempfile.TemporaryFile(prefix="localaws-")  # noqa: SIM115
        with tempfile.TemporaryDirectory(prefix="localaws-port-") as folder:
            port_file = Path(folder) / "port"
            self._process = subprocess.Popen(
                [*self._argv, "--port-file", str(port_file)],
                env=self._env,
                # held open as long as this process lives: the server ends with it
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._wait_until_ready(port_file)
        return self

    def _wait_until_ready(self, port_file: Path) -> None:
        give_up = time.monotonic() + START_TIMEOUT
        while time.monotonic() < give_up and self.is_running():
            if port_file.exists() and port_file.read_text().strip():
                self.endpoint_url = f"http://127.0.0.1:{port_file.read_text().strip()}"
                if self._is_healthy():
                    return
            time.sleep(0.05)
        why = "did not answer in time" if self.is_running() else f"ended with {self.exit_code}"
        text = self.log()
        self.stop()
        raise LocalAwsError(f"localaws {why}. The end of its log:\n{text[-4000:]}")

    def _is_healthy(self) -> bool:
        try:
            return bool(self._control("GET", "health")["status"] == "ok")
        except (LocalAwsError, OSError):
            return False

    @property
    def pid(self) -> int:
        """The server's process id."""
        if self._process is None:
            raise LocalAwsError("localaws was not started")
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The server's exit code, None while it runs."""
        return self._process.poll() if self._process else None

    def is_running(self) -> bool:
        """Say whether the server process lives."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """Return what the server has printed, also after its end."""
        if self._log is not None:
            size = os.fstat(self._log.fileno()).st_size
            self._printed = os.pread(self._log.fileno(), size, 0).decode(errors="replace")
        return self._printed

    def stop(self) -> int | None:
        """Stop it gracefully (SIGTERM: running steps are killed, the data are kept)."""
        code = self._end(signal.SIGTERM)
        self.log()
        if self._log:
            self._log.close()
            self._log = None
        return code

    def kill(self) -> None:
        """Kill it by SIGKILL, as a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int | None:
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            code = self._process.wait(STOP_TIMEOUT)
            if self._process.stdin:
                self._process.stdin.close()
            return code
        except subprocess.TimeoutExpired:
            # the log then says where it hangs
            self._process.send_signal(signal.SIGUSR1)
            time.sleep(0.5)
            self._process.kill()
            self._process.wait()
            raise LocalAwsError(f"localaws did not stop. Its log:\n{self.log()[-4000:]}") from None

    def environment(self) -> dict[str, str]:
        """Return the environment that makes boto3, the AWS CLI and Airflow talk to it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
        }

    def client(self, service: str, **config: Any) -> Any:
        """Return a boto3 client; ``config`` goes to :class:`botocore.config.Config`."""
        import boto3
        from botocore.config import Config

        # Any: published types know each service by a literal name only
        session: Any = boto3.session.Session()
        return session.client(
            service,
            endpoint_url=self.endpoint_url,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(**config),
        )

    def calls(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return the calls so far: ``{"emr": {"RunJobFlow": {"200": 1}}}``."""
        result: dict[str, dict[str, dict[str, int]]] = self._control("GET", "calls")
        return result

    def count(self, service: str, operation: str) -> int:
        """Return how often an operation was called, whatever it was answered."""
        return sum(self.calls().get(service, {}).get(operation, {}).values())

    def reset_calls(self) -> None:
        """Forget the calls so far."""
        self._control("DELETE", "calls")

    def faults(self) -> list[dict[str, Any]]:
        """Return the fault plan, each fault with ``seen`` and ``struck``."""
        result: list[dict[str, Any]] = self._control("GET", "faults")
        return result

    def set_faults(self, faults: list[dict[str, Any]]) -> None:
        """Put another fault plan in force (:mod:`localaws.faults`)."""
        self._control("PUT", "faults", faults)

    def clear_faults(self) -> None:
        """No faults any more."""
        self._control("DELETE", "faults")

    def clusters(self, *states: str) -> list[dict[str, Any]]:
        """Return every cluster, or those in the given states: an audit that is no AWS call."""
        found: list[dict[str, Any]] = self._control("GET", "emr/clusters")
        return [c for c in found if not states or c["state"] in states]

    def live_clusters(self) -> list[dict[str, Any]]:
        """Return the clusters that have not ended."""
        return [c for c in self.clusters() if not c["state"].startswith("TERMINATED")]

    def jobs(self, *states: str) -> list[dict[str, Any]]:
        """Return every Batch job and array child, or those in the given states; no AWS call."""
        found: list[dict[str, Any]] = self._control("GET", "batch/jobs")
        return [job for job in found if not states or job["state"] in states]

    def live_jobs(self) -> list[dict[str, Any]]:
        """Return the Batch jobs that have not ended; an array job without its children."""
        found: list[dict[str, Any]] = self._control("GET", "batch/live-jobs")
        return found

    def _control(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - http on loopback
            f"{self.endpoint_url}/localaws/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
        )
        # no proxy of this machine has a say in a call on loopback
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=10) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise LocalAwsError(f"{method} {path}: {error.read().decode()}") from error
