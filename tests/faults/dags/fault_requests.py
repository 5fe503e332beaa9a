"""What both columns of the fault suite ask of AWS: the same cluster, step and jobs of bash.

Names begin with the run's id and the kind, because the stock operators leave no tags by which the
audit could tell whose a job is.
"""

from __future__ import annotations

from itertools import product
from typing import Any

QUEUE, FALLBACK_QUEUE, DEFINITION = "faults", "faults-fallback", "faults-bash"
MANIFESTS = "s3://localaws-data/faults/manifests"
ARRAY_SIZE = 3
# On a busy machine Airflow takes a try away now and then: its executor reports the end of a process
# after its task was queued again, to resume (https://github.com/apache/airflow/issues/71580).
RETRIES = 4

#: The kinds of external job that a DAG may have; a step has its cluster with it.
KIND_SETS = [
    [*emr, *job, *array]
    for emr, job, array in product(
        [[], ["cluster"], ["cluster", "step"]], [[], ["job"]], [[], ["array"]]
    )
    if emr or job or array
]

PARAMS: dict[str, Any] = {
    # Folder where a job waits until there is a file `go`, and notes that it is done.
    "work": "",
    "seconds": 2,
    # The first so many tries of a step's or job's task fail.
    "failing_tries": 0,
    # Of the cluster; three primary nodes are protected whatever is asked for.
    "protected": False,
    "primaries": 1,
    "core_nodes": 1,
    "core_market": "ON_DEMAND",
}
#: Those of the cluster that are no text.
PROTECTED, PRIMARIES, CORE_NODES = (
    "{{ params." + name + " }}" for name in ("protected", "primaries", "core_nodes")
)

# What follows the task's name is data and never part of the script. An array's child that is told
# of a manifest is known by its line there, another by its index. localaws takes any signature.
WORK = r"""
set -u
item=$0 work=$1 try=$2 failing=$3 seconds=$4 manifest=${5:-}
index=${AWS_BATCH_JOB_ARRAY_INDEX:-}
if [ -n "$manifest" ]; then
  uri="$AWS_ENDPOINT_URL/${manifest#s3://}?AWSAccessKeyId=any&Signature=any&Expires=9999999999"
  index=$(python3 - "$uri" "${index:-0}" <<'END'
import json, sys, urllib.request
lines = urllib.request.urlopen(sys.argv[1]).readlines()
print(json.loads(lines[int(sys.argv[2])])["name"])
END
  )
fi
until [ -e "$work/go" ]; do sleep 0.2; done
sleep "$seconds"
[ "$try" -gt "$failing" ] || { echo "$item: try $try of $failing that fail" >&2; exit 3; }
touch "$work/$item${index:+.$index}.done"
"""
ARGUMENTS = [
    "{{ params.work }}",
    "{{ ti.try_number }}",
    "{{ params.failing_tries }}",
    "{{ params.seconds }}",
]

CLUSTER: dict[str, Any] = {
    "Name": "{{ run_id }}--cluster",
    "ReleaseLabel": "emr-7.12.0",
    "LogUri": "s3://localaws-data/elasticmapreduce/",
    "JobFlowRole": "local-emr-instance",
    "ServiceRole": "local-emr-service",
    "Instances": {
        "InstanceGroups": [
            {"InstanceRole": "MASTER", "InstanceType": "m5.xlarge", "InstanceCount": PRIMARIES},
            {
                "InstanceRole": "CORE",
                "InstanceType": "m5.xlarge",
                "InstanceCount": CORE_NODES,
                "Market": "{{ params.core_market }}",
            },
        ],
        "KeepJobFlowAliveWhenNoSteps": True,
        "TerminationProtected": PROTECTED,
        "Ec2SubnetId": "subnet-0localaws",
    },
    "AutoTerminationPolicy": {"IdleTimeout": 600},
}

STEP: dict[str, Any] = {
    "Name": "{{ run_id }}--step",
    "ActionOnFailure": "CONTINUE",
    "HadoopJarStep": {
        "Jar": "command-runner.jar",
        "Args": ["bash", "-c", WORK, "step", *ARGUMENTS],
    },
}


def job_name(kind: str) -> str:
    """Return the name of the run's Batch job of a kind."""
    return "{{ run_id }}--" + kind


def job_parameters(kind: str) -> dict[str, str]:
    """Return the parameters that the job definition takes."""
    names = ("work", "try", "failing", "seconds")
    return {"kind": kind, **dict(zip(names, ARGUMENTS, strict=True))}
