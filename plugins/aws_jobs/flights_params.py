"""What the flights' DAGs ask for in the UI's form, and the header of their raw data."""

from __future__ import annotations

from airflow.sdk import Param

RAW_COLUMNS = (
    "year",
    "month",
    "day",
    "dep_time",
    "sched_dep_time",
    "dep_delay",
    "arr_time",
    "sched_arr_time",
    "arr_delay",
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "dest",
    "air_time",
    "distance",
    "hour",
    "minute",
    "time_hour",
)

# The cluster's role reads below raw/ and writes below flights/ (include/infra/emr.yaml).
# No part begins with a dot, so none leads out; nor does a line end follow the text.
_BELOW = r"(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$(?!\n)"


def flights_params(output_prefix: str) -> dict[str, Param]:
    """Return the parameters of a run.

    :param output_prefix: the default of the prefix below which runs write.
    """
    return {
        "day": Param(
            None,
            type=["null", "string"],
            format="date",
            title="Day",
            description="The day to process, in a run by hand. Empty: the logical date.",
        ),
        "input_prefix": Param(
            "raw/flights",
            type="string",
            pattern=f"^raw{_BELOW}",
            title="Input",
            description="Prefix in the bucket, below raw, that holds one CSV object a day.",
        ),
        "output_prefix": Param(
            output_prefix,
            type="string",
            pattern=f"^flights{_BELOW}",
            title="Output",
            description="Prefix in the bucket, flights or below it; each run writes to a place of "
            "its own there.",
        ),
        "instance_type": Param(
            "m5.xlarge",
            type="string",
            pattern=r"^[a-z][a-z0-9-]*\.(\d*x?large|metal)$",
            title="Instance type",
            description="Of all nodes.",
            examples=["m5.xlarge", "m6g.xlarge", "r6g.2xlarge"],
        ),
        "core_instances": Param(
            3,
            type="integer",
            minimum=1,
            maximum=20,
            title="Core nodes",
            description="How many core nodes the cluster has beside its primary.",
        ),
    }


def cluster_pool_param() -> Param:
    """Return the parameter that names the pool in which a run shares its cluster, None for none."""
    # Airflow's form refuses an empty text that is no null.
    return Param(
        None,
        type=["null", "string"],
        pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,63})?$(?!\n)",
        title="Cluster pool",
        description="Runs that name the same pool, such as those of a backfill, share clusters; "
        "empty: a cluster of its own.",
    )
