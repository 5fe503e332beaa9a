"""No process of a step outlives the server, however the server ends."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from localaws.application import OPEN_FILES
from localaws.process import LocalAws, LocalAwsError
from localaws.runner import Command, Runner
from tests.localaws.conftest import BUCKET, QUICK, Emr, bash, until
from tests.localaws.test_bootstrap import is_alive

#: A child, a grandchild, and one that left session and group: each writes its pid.
FAMILY = (
    "echo $$ > {0}/child; bash -c 'echo $$ > {0}/grandchild; sleep 600' & "
    "setsid -f bash -c 'trap \"\" INT TERM HUP; echo $$ > {0}/stray; sleep 600'; sleep 600"
)
MEMBERS = ("child", "grandchild", "stray")


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAws]:
    """A server that the test may kill; what it cannot remove then is pytest's to remove."""
    settings = {**QUICK, "TMPDIR": str(tmp_path_factory.mktemp("server"))}
    with LocalAws(env=settings, seed=False) as aws:
        aws.client("s3").create_bucket(Bucket=BUCKET)
        yield aws


@pytest.fixture
def many_open_files() -> Iterator[None]:
    """Room for 2,000 descriptors in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def start_family(emr: Emr, folder: Path) -> list[int]:
    emr.start(Steps=[bash(FAMILY.format(folder))])
    paths = [folder / name for name in MEMBERS]
    until(lambda: all(p.exists() and p.read_text().strip() for p in paths), "three processes")
    pids = [int(path.read_text()) for path in paths]
    assert all(is_alive(pid) for pid in pids)
    return pids


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_the_server(own: LocalAws, tmp_path: Path, number: int) -> None:
    pids = start_family(Emr(own), tmp_path)

    os.kill(own.pid, number)

    until(lambda: not any(is_alive(pid) for pid in pids), "everything to be gone", 5)


def test_a_stop_in_order_leaves_no_folder(tmp_path: Path) -> None:
    with LocalAws(env={**QUICK, "TMPDIR": str(tmp_path)}, seed=False) as aws:
        during = list(tmp_path.glob("localaws-*"))
        for _ in range(5):
            # one signal on the heels of another
            os.kill(aws.pid, signal.SIGINT)
        code = aws.stop()

    assert len(during) == 1
    assert list(tmp_path.iterdir()) == []
    assert code == 0


def test_a_step_that_ends_leaves_nothing_running(emr: Emr, tmp_path: Path) -> None:
    cluster = emr.start()
    stray = tmp_path / "pid"
    (step,) = emr.add(
        cluster,
        f"setsid -f bash -c 'echo $$ > {stray}; sleep 600'; until [ -s {stray} ]; do :; done",
    )

    emr.await_step(cluster, step, "COMPLETED")

    until(lambda: not is_alive(int(stray.read_text())), "the stray to be gone", 5)


def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = (
        "import os; from localaws.process import LocalAws; "
        "print(LocalAws(seed=False).start().pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd(), "TMPDIR": str(tmp_path)},
    )

    pid = int(done.stdout)

    until(lambda: not is_alive(pid), "the server to be gone", 10)


def test_a_port_that_is_taken_is_named(aws: LocalAws) -> None:
    port = aws.endpoint_url.rsplit(":", 1)[1]

    with pytest.raises(LocalAwsError, match=f"127.0.0.1:{port}.*LOCALAWS_PORT"):
        LocalAws(port=int(port), seed=False).start()


def test_one_service_at_a_time_is_changed_by_one_thread(aws: LocalAws) -> None:
    """Stock moto loses updates of a counter that several threads add to."""
    dynamodb = aws.client("dynamodb")
    dynamodb.create_table(
        TableName="counters",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )

    def add(_: int) -> None:
        dynamodb.update_item(
            TableName="counters",
            Key={"id": {"S": "x"}},
            UpdateExpression="ADD n :one",
            ExpressionAttributeValues={":one": {"N": "1"}},
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(200)))
    item = dynamodb.get_item(TableName="counters", Key={"id": {"S": "x"}})["Item"]
    dynamodb.delete_table(TableName="counters")

    assert item["n"] == {"N": "200"}


def test_a_slow_client_holds_up_nobody(aws: LocalAws) -> None:
    host, port = aws.endpoint_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as half:
        # announces a body and does not send it
        half.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
            b"X-Amz-Target: ElasticMapReduce.ListClusters\r\n"
            b"Authorization: AWS4-HMAC-SHA256 "
            b"Credential=localaws/20260101/us-east-1/elasticmapreduce/aws4_request, x\r\n\r\n"
        )
        began = time.monotonic()
        aws.client("emr").list_clusters()

    assert time.monotonic() - began < 5


def test_a_command_runs_where_a_thousand_descriptors_are_in_use(
    many_open_files: None, tmp_path: Path
) -> None:
    runner, output = Runner(), tmp_path / "output"
    with contextlib.ExitStack() as stack:
        for _ in range(1100):
            stack.enter_context(open(os.devnull))
        running = runner.start(
            Command(["bash", "-c", "sleep 0.2; exit 3"], tmp_path, output, output)
        )
        code = running.wait(20)
    runner.close()

    assert (code, output.read_text()) == (3, "")


def test_the_server_may_open_more_files_than_the_shell_that_started_it() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        with LocalAws(env=QUICK, seed=False) as aws:
            limits = Path(f"/proc/{aws.pid}/limits").read_text()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert int(line.split()[3]) == min(OPEN_FILES, hard)


def test_logs_reach_s3_late_and_at_the_clusters_end_at_once() -> None:
    settings = {**QUICK, "LOCALAWS_EMR_LOG_DELAY_SECONDS": "600"}
    with LocalAws(env=settings, seed=False) as aws:
        emr = Emr(aws)
        emr.s3.create_bucket(Bucket=BUCKET)
        cluster = emr.start()
        (step,) = emr.add(cluster, "echo late")
        emr.await_step(cluster, step, "COMPLETED")
        early = emr.s3.list_objects_v2(Bucket=BUCKET)["KeyCount"]
        emr.client.terminate_job_flows(JobFlowIds=[cluster])
        emr.await_state(cluster, "TERMINATED")
        late = emr.log(cluster, "steps", step, "stdout")

    assert early == 0
    assert late == "late\n"
