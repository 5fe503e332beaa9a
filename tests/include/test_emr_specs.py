from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from aws_jobs.job_flow_spec import conform_job_flow, conform_steps

SPECS = Path(__file__).resolve().parents[2] / "include" / "emr"
CLUSTERS = ["daily_cluster", "three_primaries_cluster"]
STEPS = ["ingest_step", "report_step"]
GLUE_METASTORE = {
    "hive.metastore.client.factory.class": (
        "com.amazonaws.glue.catalog.metastore.AWSGlueDataCatalogHiveClientFactory"
    )
}
# What the DAGs give: see their `values`, their params and the settings.
VALUES = {
    "settings": {
        "bucket": "data",
        "log_prefix": "elasticmapreduce",
        "code_prefix": "code",
        "emr_service_role": "local-emr-service",
        "emr_instance_profile": "local-emr-instance",
        "emr_subnet_id": "subnet-0localaws",
    },
    "params": {"instance_type": "m5.xlarge", "core_instances": 3},
    "day": "2013-01-01",
    "raw_uri": "s3://data/raw/flights/2013-01-01.csv",
    "output_uri": "s3://data/flights/day=2013-01-01/j-1",
    "flights_uri": "s3://data/flights/day=2013-01-01/j-1/flights",
    "rejected_uri": "s3://data/flights/day=2013-01-01/j-1/rejected",
}


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((SPECS / f"{name}.yaml").read_text())


def rendered(value: Any) -> Any:
    """Render every text, as the operators do; an unknown name is an error."""
    if isinstance(value, dict):
        return {key: rendered(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rendered(item) for item in value]
    if isinstance(value, str):
        return jinja2.Template(value, undefined=jinja2.StrictUndefined).render(VALUES)
    return value


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_is_what_emr_takes(name):
    request, _ = conform_job_flow(rendered(load(name)))
    counts = [group["InstanceCount"] for group in request["Instances"]["InstanceGroups"]]
    assert counts == ([1, 3] if name == "daily_cluster" else [3, 3])


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_what_emr_takes(name):
    (step,) = conform_steps([rendered(load(name))])
    assert step["HadoopJarStep"]["Jar"] == "command-runner.jar"


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_has_the_published_shape(name):
    spec = rendered(load(name))
    assert [application["Name"] for application in spec["Applications"]] == [
        "Spark",
        "Hive",
        "Pig",
        "Presto",
    ]
    assert spec["EbsRootVolumeSize"] == 100
    assert spec["AutoTerminationPolicy"] == {"IdleTimeout": 600}
    for group in spec["Instances"]["InstanceGroups"]:
        assert (group["Market"], group["InstanceType"]) == ("ON_DEMAND", "m5.xlarge")
        (volume,) = group["EbsConfiguration"]["EbsBlockDeviceConfigs"]
        assert group["EbsConfiguration"]["EbsOptimized"] is True
        assert volume == {
            "VolumesPerInstance": 1,
            "VolumeSpecification": {"VolumeType": "gp3", "SizeInGB": 500},
        }


@pytest.mark.parametrize("name", CLUSTERS)
def test_glue_is_the_metastore_of_spark_hive_and_presto(name):
    classified = {
        entry["Classification"]: entry["Properties"] for entry in load(name)["Configurations"]
    }
    assert classified == {
        "spark-hive-site": GLUE_METASTORE,
        "hive-site": GLUE_METASTORE,
        "presto-connector-hive": {"hive.metastore.glue.datacatalog.enabled": "true"},
    }


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_waits_for_steps_and_holds_no_account_s_names(name):
    spec = load(name)
    assert spec["Instances"]["KeepJobFlowAliveWhenNoSteps"] is True
    assert "Ec2KeyName" not in spec["Instances"]
    for place in ("LogUri", "ServiceRole", "JobFlowRole"):
        assert "{{ settings." in spec[place]
    assert spec["Instances"]["Ec2SubnetId"] == "{{ settings.emr_subnet_id }}"


def test_the_daily_cluster_can_be_ended_and_the_other_one_warns():
    daily, none = conform_job_flow(rendered(load("daily_cluster")))
    assert daily["Instances"]["TerminationProtected"] is False
    assert none == []
    _, (warning,) = conform_job_flow(rendered(load("three_primaries_cluster")))
    assert "termination protection" in warning


def test_instance_type_and_core_count_come_from_the_run():
    text = (SPECS / "daily_cluster.yaml").read_text()
    assert "m5.xlarge" not in text
    groups = load("daily_cluster")["Instances"]["InstanceGroups"]
    assert groups[1]["InstanceCount"] == "{{ params.core_instances }}"


@pytest.mark.parametrize("name", STEPS)
def test_a_failed_step_leaves_the_cluster_to_its_retry(name):
    assert load(name)["ActionOnFailure"] == "CONTINUE"


def test_the_ingest_step_gives_the_job_each_argument_whole():
    assert rendered(load("ingest_step"))["HadoopJarStep"]["Args"] == [
        "spark-submit",
        "--deploy-mode",
        "cluster",
        "--conf",
        "spark.yarn.maxAppAttempts=1",
        "s3://data/code/spark/flights_ingest.py",
        "--day",
        VALUES["day"],
        "--input",
        VALUES["raw_uri"],
        "--output",
        VALUES["output_uri"],
    ]


def test_the_report_step_gives_the_job_each_argument_whole():
    arguments = rendered(load("report_step"))["HadoopJarStep"]["Args"]
    assert arguments[5:] == [
        "s3://data/code/spark/flights_report.py",
        "--day",
        VALUES["day"],
        "--flights",
        VALUES["flights_uri"],
        "--rejected",
        VALUES["rejected_uri"],
        "--output",
        VALUES["output_uri"],
    ]


@pytest.mark.parametrize("name", [*CLUSTERS, *STEPS])
def test_tags_are_left_to_the_operator(name):
    assert "Tags" not in load(name)


def test_every_spec_is_tried_here():
    assert {path.stem for path in SPECS.iterdir()} == {*CLUSTERS, *STEPS}
