"""
# Reads of many samples mapped to one reference, a Batch job each

Checks everything that can be known before a job is paid for, claims the samples in the DynamoDB
table, maps each in a Batch job (bwa, samtools, CoverM) on Graviton or x86, verifies what the jobs
wrote, merges the coverage of all samples into one matrix, and reports time and cost.

**Run it again** whenever you like: finished samples are not mapped again, failed ones are. To map
finished ones too, set `recompute`.

**A failed sample does not stop the others.** Matrix and report are always made, and say what is
missing. The run then fails, and `publish` names each failed sample and why, unless no more have
failed than `max_failed`. Only a run that passes publishes the asset `coverage_matrix`.

| clear | what runs again |
|---|---|
| `map_samples` of a sample | its job, from the stages that are not done, and what follows |
| `verify_outputs`, `matrix_request` | matrix and report; no sample |
| `publish` | that alone |

Settings: the part `genomics` of the Airflow variable `aws_jobs`. Connection: `aws_default`. Pool:
`batch_submissions`. Specs: `include/genomics`.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Asset, TriggerRule, dag, task

from aws_jobs import mapping_run
from aws_jobs.mapping_params import mapping_params
from aws_jobs.operators.batch import BatchArrayOperator
from aws_jobs.operators.genomics import MappingReportOperator
from aws_jobs.specs import load_spec

GENOMICS = Path(__file__).parents[1] / "include" / "genomics"
MAP_SAMPLE = load_spec(GENOMICS / "map_sample_job.yaml")
MERGE_COVERAGE = load_spec(GENOMICS / "merge_coverage_job.yaml")
MANIFESTS = "s3://{{ settings.bucket }}/results/manifests"

COVERAGE_MATRIX = Asset("coverage_matrix")


@dag(
    schedule=None,
    default_args={"owner": "data-engineering", "retries": 1, "retry_delay": timedelta(seconds=30)},
    params=mapping_params(),
    tags=["batch", "genomics"],
    doc_md=__doc__,
)
def genomics_mapping() -> None:
    @task(multiple_outputs=False)
    def preflight(*, params: Any = None) -> dict[str, Any]:
        return mapping_run.preflight(params)

    @task
    def claim_samples(
        checked: dict[str, Any], *, params: Any = None, ti: Any = None
    ) -> list[list[dict[str, Any]]]:
        return mapping_run.claim(checked, params, owner=mapping_run.owner_of(ti))

    # What the claim returns is known when it has succeeded, whatever became of the jobs.
    @task(multiple_outputs=False, trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)
    def verify_outputs(claimed: list[list[dict[str, Any]]], *, ti: Any = None) -> dict[str, Any]:
        return mapping_run.verify(
            ti.xcom_pull("preflight"),
            claimed,
            ti.xcom_pull(["map_samples"], key="attempts"),
            owner=mapping_run.owner_of(ti),
        )

    @task
    def matrix_request(
        verified: dict[str, Any], *, params: Any = None, ti: Any = None
    ) -> list[dict[str, Any]]:
        return mapping_run.matrix_items(verified, params, owner=mapping_run.owner_of(ti))

    @task(multiple_outputs=False, outlets=[COVERAGE_MATRIX])
    def publish(
        verified: dict[str, Any],
        request: list[dict[str, Any]],
        *,
        params: Any = None,
        outlet_events: Any = None,
    ) -> dict[str, Any]:
        published = mapping_run.publish(verified, request, params)
        outlet_events[COVERAGE_MATRIX].extra = published
        return published

    checked = preflight()
    claimed = claim_samples(checked)
    map_samples = BatchArrayOperator.partial(
        task_id="map_samples",
        job=MAP_SAMPLE,
        values={"arch": "{{ params.architecture }}"},
        fallback_queues=["{{ settings.genomics.queues[arch][-1] }}"],
        memory_cap_mib="{{ settings.genomics.memory_cap_mib }}",
        manifest_prefix=MANIFESTS,
        name_key="sample",
        done_key="done_uri",
        inline_item=True,
        pool="batch_submissions",
        map_index_template="{{ task.names[:3] | join(', ') }}",
    ).expand(items=claimed)
    verified = verify_outputs(claimed)
    request = matrix_request(verified)
    coverage_matrix = BatchArrayOperator(
        task_id="coverage_matrix",
        job=MERGE_COVERAGE,
        items=request,
        manifest_prefix=MANIFESTS,
        name_key="output",
        done_key="done_uri",
        inline_item=True,
        pool="batch_submissions",
    )
    report = MappingReportOperator(
        task_id="report",
        verified=verified,
        attempts_of="map_samples",
        prices=GENOMICS / "prices.yaml",
        trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS,
    )

    published = publish(verified, request)

    map_samples >> verified
    coverage_matrix >> report >> published
    coverage_matrix >> published


genomics_mapping()
