"""Every DAG file as Airflow will see it, without running anything."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import ParamValidationError
from airflow.utils.dag_version_inflation_checker import check_dag_file_stability

from aws_jobs.specs import load_spec
from tests.dags.cluster_rules import has_idle_policy, problems

ROOT = Path(__file__).resolve().parents[2]
DAGS = ROOT / "dags"
DAG_FILES = sorted(DAGS.glob("*.py"))
EMR_DAGS = {"emr_daily_etl", "emr_step_sensors"}
GENOMICS_DAGS = {"genomics_graviton_benchmark", "genomics_mapping"}
DAG_IDS = EMR_DAGS | GENOMICS_DAGS | {"aws_housekeeping"}
# The DAG processor gives up after 30 s ([core] dagbag_import_timeout).
PARSE_SECONDS = 15


def parse(folder: Path) -> dict[str, Any]:
    """Parse a folder in a process of its own, without the network."""
    done = subprocess.run(
        [sys.executable, "-P", Path(__file__).with_name("parse_dags.py"), folder],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.fixture(scope="module")
def parsed() -> dict[str, Any]:
    return parse(DAGS)


@pytest.fixture(scope="module")
def dags() -> dict[str, Any]:
    return dict(DagBag(DAGS, safe_mode=False).dags)


@pytest.fixture(params=sorted(DAG_IDS))
def dag(request: pytest.FixtureRequest, dags: dict[str, Any]) -> Any:
    return dags[request.param]


def test_the_dags_are_exactly_these_and_import_without_error_or_network(
    parsed: dict[str, Any],
) -> None:
    assert parsed["errors"] == {}
    assert set(parsed["dags"]) == DAG_IDS


def test_no_dag_file_loads_boto3_or_the_amazon_provider(parsed: dict[str, Any]) -> None:
    assert parsed["slow_modules"] == []


def test_each_dag_file_parses_in_good_time(
    parsed: dict[str, Any], record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = parsed["seconds"]
    assert set(seconds) == {path.name for path in DAG_FILES}
    with capsys.disabled():
        for name, took in seconds.items():
            record_property(f"parse {name}", took)
            print(f"\n  {name} parsed in {took:.2f} s", end="")
    assert max(seconds.values()) < PARSE_SECONDS


def test_a_dag_file_that_asks_for_the_network_or_loads_boto3_is_caught(tmp_path: Path) -> None:
    (tmp_path / "curious.py").write_text(
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9')\n"
    )
    (tmp_path / "slow.py").write_text("import boto3\n")

    parsed = parse(tmp_path)

    assert "asked for the network" in parsed["errors"][str(tmp_path / "curious.py")]
    assert "boto3" in parsed["slow_modules"]


def test_the_plugin_loader_leaves_the_library_alone(parsed: dict[str, Any]) -> None:
    """It runs each file that it finds once more, as `emr`: module state would be there twice."""
    twice = [path for path in parsed["files_loaded_twice"] if "/aws_jobs/" in path]
    assert twice == []


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.name)
def test_a_dag_file_is_the_same_at_each_parse(path: Path) -> None:
    assert check_dag_file_stability(str(path)).warnings == {}


def test_a_dag_file_that_differs_at_each_parse_is_caught(tmp_path: Path) -> None:
    path = tmp_path / "clock.py"
    path.write_text(
        "from datetime import datetime\n"
        "from airflow.sdk import DAG\n"
        "dag = DAG('clock', start_date=datetime.now())\n"
    )

    assert check_dag_file_stability(str(path)).warnings


def test_a_dag_has_docs_an_owner_tags_and_retries(dag: Any) -> None:
    assert dag.doc_md.lstrip().startswith("# ")
    assert dag.tags
    assert {task.owner for task in dag.tasks} == {"data-engineering"}
    assert [task.task_id for task in dag.tasks if task.retries < 1] == []


def test_a_dag_does_not_catch_up_by_itself(dag: Any) -> None:
    assert dag.catchup is False


def test_a_dag_keeps_the_rules_for_clusters(dag: Any) -> None:
    assert problems(dag) == []


@pytest.mark.parametrize("path", sorted((ROOT / "include" / "emr").glob("*cluster.yaml")), ids=str)
def test_a_cluster_spec_ends_an_idle_cluster(path: Path) -> None:
    assert has_idle_policy(load_spec(path))


def edges(dag: Any) -> Iterator[tuple[str, str]]:
    for task in dag.tasks:
        yield from ((task.task_id, after) for after in task.downstream_task_ids)


def test_the_daily_etl_starts_its_cluster_after_the_check_and_ends_it_before_the_rest(
    dags: dict[str, Any],
) -> None:
    assert set(edges(dags["emr_daily_etl"])) == {
        ("check_input", "create_cluster"),
        ("create_cluster", "ingest"),
        ("create_cluster", "report"),  # the cluster's id
        ("ingest", "report"),
        ("report", "terminate_cluster"),
        ("create_cluster", "terminate_cluster"),
        ("report", "check_output"),
        ("check_output", "publish"),
    }


def test_the_published_form_is_five_tasks_and_a_check(dags: dict[str, Any]) -> None:
    assert set(edges(dags["emr_step_sensors"])) == {
        ("create_cluster", "cluster_sensor"),
        ("create_cluster", "submit_steps"),  # the cluster's id
        ("create_cluster", "step_sensor"),  # the cluster's id
        ("cluster_sensor", "submit_steps"),
        ("submit_steps", "step_sensor"),
        ("step_sensor", "terminate_cluster"),
        ("create_cluster", "terminate_cluster"),
        ("submit_steps", "terminate_cluster"),
        ("step_sensor", "check_output"),
    }


def test_the_mapping_makes_matrix_and_report_whatever_became_of_the_samples(
    dags: dict[str, Any],
) -> None:
    dag = dags["genomics_mapping"]

    assert set(edges(dag)) == {
        ("preflight", "claim_samples"),
        ("claim_samples", "map_samples"),
        ("claim_samples", "verify_outputs"),  # what was claimed
        ("map_samples", "verify_outputs"),
        ("verify_outputs", "matrix_request"),
        ("verify_outputs", "report"),  # what is told
        ("verify_outputs", "publish"),  # what is judged
        ("matrix_request", "coverage_matrix"),
        ("matrix_request", "publish"),  # where the matrix is
        ("coverage_matrix", "report"),
        ("coverage_matrix", "publish"),
        ("report", "publish"),
    }
    after_failures = {"verify_outputs", "report"}
    rules = {task.task_id: task.trigger_rule.value for task in dag.tasks}
    assert {name for name, rule in rules.items() if rule != "all_success"} == after_failures
    assert {rules[name] for name in after_failures} == {"all_done_min_one_success"}


def test_only_the_publishing_task_of_the_mapping_has_an_asset(dags: dict[str, Any]) -> None:
    dag = dags["genomics_mapping"]

    assert [task.task_id for task in dag.tasks if task.outlets] == ["publish"]
    assert [task.task_id for task in dag.tasks if not task.downstream_task_ids] == ["publish"]


def test_every_task_that_submits_jobs_takes_a_place_in_the_pool(dags: dict[str, Any]) -> None:
    submitting = [
        (dag_id, task.task_id, task.pool)
        for dag_id in sorted(GENOMICS_DAGS)
        for task in dags[dag_id].tasks
        if task.task_type in {"BatchArrayOperator", "BatchJobOperator"}
    ]

    assert len(submitting) == 4
    assert {pool for _, _, pool in submitting} == {"batch_submissions"}


def test_one_task_at_a_time_publishes(dags: dict[str, Any]) -> None:
    assert dags["emr_daily_etl"].get_task("publish").max_active_tis_per_dag == 1


def test_the_housekeeping_is_one_at_a_time_and_ends_only_after_a_look(
    dags: dict[str, Any],
) -> None:
    dag = dags["aws_housekeeping"]

    assert set(edges(dag)) == {("find_orphans", "end_orphans")}
    assert dag.max_active_runs == 1
    # A look that hangs would keep all that follow from beginning.
    assert all(task.execution_timeout for task in dag.tasks)


FLIGHTS_REFUSED = [
    ("day", "2013-02-30"),
    ("day", "yesterday"),
    ("day", 20130101),
    ("instance_type", "m5.xlarge; true"),
    ("instance_type", "large"),
    ("core_instances", 0),
    ("core_instances", 21),
    ("core_instances", "3"),
    ("input_prefix", "/raw"),
    ("output_prefix", "../flights"),
    ("output_prefix", ""),
]
FLIGHTS_TAKEN = [
    ("day", None),
    ("day", "2013-01-31"),
    ("instance_type", "r6g.2xlarge"),
    ("instance_type", "m5.metal"),
    ("core_instances", 20),
    ("input_prefix", "raw/flights-2013"),
]
MAPPING_REFUSED = [
    ("table", "reads; drop"),
    ("samples", []),
    ("samples_per_job", 0),
    ("samples_per_job", 10_001),
    ("methods", ["rpkm"]),
    ("min_identity", 101),
    ("min_aligned", -0.1),
]
MAPPING_TAKEN = [
    ("table", None),
    ("samples", ["S*", "SRR11676645"]),
    ("samples_per_job", 10_000),
    ("methods", ["mean"]),
    ("min_identity", 95),
    ("trim_max", 0.9),
]


@pytest.mark.parametrize(
    ("dag_id", "name", "value"),
    [
        *((dag_id, *each) for dag_id in sorted(EMR_DAGS) for each in FLIGHTS_REFUSED),
        *((dag_id, *each) for dag_id in sorted(GENOMICS_DAGS) for each in MAPPING_REFUSED),
        ("emr_daily_etl", "cluster_pool", "../january"),
        ("emr_daily_etl", "cluster_pool", "january\n"),
        ("genomics_mapping", "architecture", "arm"),
        ("genomics_mapping", "max_failed", -1),
        ("aws_housekeeping", "grace_minutes", -1),
    ],
)
def test_a_parameter_that_cannot_be_meant_is_refused(
    dags: dict[str, Any], dag_id: str, name: str, value: Any
) -> None:
    params = copy.deepcopy(dags[dag_id].params)

    with pytest.raises(ParamValidationError):
        params[name] = value


@pytest.mark.parametrize(
    ("dag_id", "name", "value"),
    [
        *((dag_id, *each) for dag_id in sorted(EMR_DAGS) for each in FLIGHTS_TAKEN),
        *((dag_id, *each) for dag_id in sorted(GENOMICS_DAGS) for each in MAPPING_TAKEN),
        ("emr_daily_etl", "cluster_pool", "january"),
        ("emr_daily_etl", "cluster_pool", ""),
        ("genomics_mapping", "architecture", "x86"),
        ("genomics_mapping", "recompute", True),
    ],
)
def test_a_parameter_that_can_be_meant_is_taken(
    dags: dict[str, Any], dag_id: str, name: str, value: Any
) -> None:
    params = copy.deepcopy(dags[dag_id].params)
    params[name] = value

    assert params.validate()[name] == value


def test_the_form_in_the_ui_can_be_sent_as_it_stands(dag: Any) -> None:
    """Airflow's form takes no empty text for a parameter that may not be null."""
    empty = [name for name in dag.params if dag.params[name] in (None, "")]

    assert not [name for name in empty if "null" not in dag.params.get_param(name).schema["type"]]
