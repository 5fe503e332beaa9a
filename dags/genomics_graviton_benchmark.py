"""
# The same samples on Graviton and on x86, compared

Maps each sample once on both architectures, with the same image, vCPUs and memory, away from the
results of `genomics_mapping` and without a word in its table. Then it compares: whether both gave
the same coverage, the seconds of each stage, and what Graviton saves,
`1 - (1 - t)(1 - p)` with `t` the time saved and `p` the difference of the prices per hour.

Every sample costs two jobs. Clearing `compare` compares again what was measured; clearing a job
measures it anew.

Settings: the part `genomics` of the Airflow variable `aws_jobs`; its two job definitions must name
the same image by its digest. Prices: `include/genomics/prices.yaml`, which is dated.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import TriggerRule, dag, task

from aws_jobs import mapping_run
from aws_jobs.mapping_params import benchmark_params
from aws_jobs.operators.batch import BatchArrayOperator
from aws_jobs.operators.genomics import ArchitectureComparisonOperator
from aws_jobs.specs import load_spec

GENOMICS = Path(__file__).parents[1] / "include" / "genomics"
MAP_SAMPLE = load_spec(GENOMICS / "map_sample_job.yaml")
SIDES = ("graviton", "x86")


@dag(
    schedule=None,
    default_args={"owner": "data-engineering", "retries": 1, "retry_delay": timedelta(seconds=30)},
    params=benchmark_params(),
    tags=["batch", "genomics", "benchmark"],
    doc_md=__doc__,
)
def genomics_graviton_benchmark() -> None:
    @task(multiple_outputs=False)
    def preflight(*, params: Any = None) -> dict[str, Any]:
        return mapping_run.preflight_benchmark(params)

    @task
    def samples_for(
        side: str, checked: dict[str, Any], *, params: Any = None, ti: Any = None
    ) -> list[list[dict[str, Any]]]:
        return mapping_run.benchmark_items(checked, params, side, owner=mapping_run.owner_of(ti))

    checked = preflight()
    compare = ArchitectureComparisonOperator(
        task_id="compare",
        items_of={side: f"samples_for_{side}" for side in SIDES},
        attempts_of={side: f"map_on_{side}" for side in SIDES},
        prices=GENOMICS / "prices.yaml",
        trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS,
    )
    for side in SIDES:
        items = samples_for.override(task_id=f"samples_for_{side}")(side, checked)
        map_samples = BatchArrayOperator.partial(
            task_id=f"map_on_{side}",
            job=MAP_SAMPLE,
            values={"arch": side},
            fallback_queues=["{{ settings.genomics.queues[arch][-1] }}"],
            memory_cap_mib="{{ settings.genomics.memory_cap_mib }}",
            manifest_prefix="s3://{{ settings.bucket }}/benchmarks/manifests",
            name_key="sample",
            done_key="done_uri",
            inline_item=True,
            pool="batch_submissions",
            map_index_template="{{ task.names[:3] | join(', ') }}",
        ).expand(items=items)
        map_samples >> compare


genomics_graviton_benchmark()
