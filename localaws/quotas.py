"""AWS's documented request quotas as fault plans: each call throttled by a token bucket.

``LocalAws.set_faults(EMR_QUOTAS)`` makes localaws answer as an account does that never asked for
more: a bucket for each operation and one for all calls of EMR together.

What burst and refill mean:
https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-service-limits-what-are.html
The values: https://docs.aws.amazon.com/general/latest/gr/emr.html and, for Batch,
https://docs.aws.amazon.com/batch/latest/userguide/service_limits.html
"""

from __future__ import annotations

from typing import Any

#: Calls at once, and calls a second after that, by operation; per account and region.
EMR_BUCKETS: dict[str, tuple[int, float]] = {
    "RunJobFlow": (10, 0.5),
    "AddJobFlowSteps": (10, 0.5),
    "DescribeCluster": (10, 1.0),
    "DescribeStep": (10, 0.5),
    "ListSteps": (10, 0.5),
    "ListClusters": (20, 0.5),
    "TerminateJobFlows": (10, 0.5),
    "CancelSteps": (10, 0.5),
    "AddTags": (5, 0.5),
    "RemoveTags": (5, 0.5),
    "SetTerminationProtection": (5, 0.2),
    "ListInstanceFleets": (5, 0.5),
    "ListInstanceGroups": (10, 1.0),
    "ListInstances": (10, 0.5),
    "ModifyCluster": (10, 0.5),
    # of every EMR call together
    "*": (25, 5.0),
}

EMR_QUOTAS: list[dict[str, Any]] = [
    {
        "service": "emr",
        "operation": operation,
        "kind": "throttle",
        "burst": burst,
        "refill": refill,
    }
    for operation, (burst, refill) in EMR_BUCKETS.items()
]

#: Batch documents a limit for SubmitJob only.
BATCH_QUOTAS: list[dict[str, Any]] = [
    {
        "service": "batch",
        "operation": "SubmitJob",
        "kind": "throttle",
        "burst": 50,
        "refill": 50.0,
    },
]
