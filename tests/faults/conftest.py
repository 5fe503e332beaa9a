"""One Airflow for the whole suite, quick to see what has died, with kill points in its tasks."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.local_env import read_env_file
from scripts.stack import ROOT, Stack
from tests.faults.dags import fault_requests as requests
from tests.faults.table import Rows
from tests.faults.world import FaultWorld

HERE = Path(__file__).parent

# A lost host is seen within half a minute, not five, and a dead triggerer sooner than by default. A
# scheduler that a busy machine keeps waiting must not take itself for dead: that is the default.
QUICK_TO_SEE = {
    "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "30",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "20",
}
OTHERS = {
    # So many are held at once in some cases; `world.set_slots` says how many run otherwise.
    "AIRFLOW__CORE__PARALLELISM": "40",
    "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "100",
    # One file changes, in one case, and is parsed at once.
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "120",
}
# Listings lag by 5 s at the most, where a case says so.
WAITS = {"lookup_grace_seconds": 8, "log_wait_seconds": 3, "batch_poll_seconds": 1}
LOCALAWS = {
    "LOCALAWS_EMR_STARTING_SECONDS": "1",
    "LOCALAWS_EMR_BOOTSTRAPPING_SECONDS": "0.5",
    "LOCALAWS_EMR_TERMINATING_SECONDS": "0.5",
    "LOCALAWS_BATCH_IMAGES": json.dumps(
        {"local/*": "", "*genomics-mapping*": str(ROOT / ".venv-genomics")}
    ),
}

_ROWS = pytest.StashKey[Rows]()


# Many runs are begun together, so the first that is judged waits for most of them: seconds.
CASE_TIMEOUT = 900


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ROWS] = {}
    config.addinivalue_line("markers", "quick: of the faults, the few that `make test` runs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.stack)
            item.add_marker(pytest.mark.timeout(CASE_TIMEOUT))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if rows := config.stash[_ROWS]:
        terminalreporter.section("leaked, made twice, outcome")
        for row in rows.values():
            terminalreporter.write_line(
                f"{row.leaked:3} {row.duplicates:3}  {row.outcome:8} {row.kind:8} {row.case}"
            )


@pytest.fixture(scope="session")
def world(pytestconfig: pytest.Config) -> Iterator[FaultWorld]:
    """The stack with its queues and DAGs; runs that nobody has judged end with it."""
    settings = json.loads(read_env_file(ROOT / "airflow.env")["AIRFLOW_VAR_AWS_JOBS"])
    operators = os.environ.get("FAULTS_OPERATORS", "ours")
    paths = [str(HERE / "inject")]
    if operators == "stock":
        from benchmarks.stock_environment import stock_environment

        paths.append(stock_environment()["PYTHONPATH"])
    with tempfile.TemporaryDirectory(prefix="airflow-faults-") as folder:
        plans, work = Path(folder, "plans"), Path(folder, "work")
        environ = {
            **QUICK_TO_SEE,
            **OTHERS,
            "AIRFLOW_VAR_AWS_JOBS": json.dumps(settings | WAITS),
            "PYTHONPATH": os.pathsep.join(paths),
            "FAULTS_PLANS": str(plans),
        }
        dags = [ROOT / "dags", HERE / "dags"]
        with Stack(
            ROOT,
            Path(folder, "stack"),
            dags_folders=dags,
            environ=environ,
            localaws_environ=LOCALAWS,
        ) as stack:
            world = FaultWorld(stack, operators, plans, work, pytestconfig.stash[_ROWS])
            _make_queues(world)
            world.set_slots()
            world.unpause(
                ["-".join([f"faults_{operators}", *kinds]) for kinds in requests.KIND_SETS]
            )
            yield world
            world.end_orphans()


def _make_queues(world: FaultWorld) -> None:
    batch = world.batch
    batch.create_compute_environment(
        computeEnvironmentName="faults",
        type="MANAGED",
        state="ENABLED",
        computeResources={
            "type": "EC2",
            "minvCpus": 0,
            "maxvCpus": 256,
            "instanceTypes": ["r6g"],
            "subnets": ["subnet-0localaws"],
            "securityGroupIds": ["sg-0localaws"],
            "instanceRole": "arn:aws:iam::123456789012:instance-profile/faults",
        },
    )
    for queue in (requests.QUEUE, requests.FALLBACK_QUEUE):
        batch.create_job_queue(
            jobQueueName=queue,
            state="ENABLED",
            priority=1,
            computeEnvironmentOrder=[{"order": 1, "computeEnvironment": "faults"}],
        )
    names = ("kind", "work", "try", "failing", "seconds", "manifest")
    batch.register_job_definition(
        jobDefinitionName=requests.DEFINITION,
        type="container",
        parameters=dict.fromkeys(names, ""),
        containerProperties={
            "image": "local/bash",
            "command": ["bash", "-c", requests.WORK, *(f"Ref::{name}" for name in names)],
            "resourceRequirements": [
                {"type": "VCPU", "value": "1"},
                {"type": "MEMORY", "value": "64"},
            ],
        },
    )


@pytest.fixture(autouse=True)
def _group(request: pytest.FixtureRequest) -> Iterator[None]:
    """Rows belong to their module's group; faults and orphans end with the test that made them."""
    if "world" not in request.fixturenames:
        yield
        return
    world: FaultWorld = request.getfixturevalue("world")
    world.group = request.module.GROUP
    yield
    world.set_faults([])
    world.end_orphans()
