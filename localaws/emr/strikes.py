"""The fault plan's strikes at clusters and steps.

What losing core nodes does:
https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-cluster-NO_SLAVE_LEFT-FAILED_BY_MASTER.html
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from localaws.emr.models import now
from localaws.emr.states import (
    EXECUTORS_LOST,
    FAILED,
    RUNNING,
    SLAVES_LOST,
    WAITING,
    Ending,
    Reason,
)
from localaws.faults import Fault, FaultPlan

if TYPE_CHECKING:
    from localaws.emr.lifecycle import ClusterLife

log = logging.getLogger(__name__)

#: How often (seconds) the clusters are looked at while the plan has something in store for them.
INTERVAL = 0.1
#: Ends that EMR does not call an error.
IN_ORDER = ("USER_REQUEST", "ALL_STEPS_COMPLETED")


def watch(lives: Mapping[str, ClusterLife], lock: threading.RLock, faults: FaultPlan) -> None:
    """Look at all clusters for ever; what may be struck on entering a state is so there."""
    while True:
        time.sleep(INTERVAL)
        if not faults.strikes_clusters():
            continue
        try:
            with lock:
                for life in lives.values():
                    strike(life, faults)
        except Exception:
            log.exception("clusters cannot be watched")


def strike(life: ClusterLife, faults: FaultPlan) -> None:
    """Do to one cluster what the plan says; the lock is held."""
    cluster = life.cluster
    if life.is_ending or cluster.has_ended:
        return
    names = {"cluster": cluster.name}
    here = {**names, "state": cluster.state}
    failure = faults.striking("cluster_failure", cluster.id, life.age, **here)
    if failure is not None:
        life.end(_failure(failure))
        return
    for step in cluster.steps:
        if step.state == RUNNING and step.started is not None:
            age = (now() - step.started).total_seconds()
            fault = faults.striking("step_failure", step.id, age, step=step.name, **names)
            if fault is not None:
                words = str(fault.spec.get("reason") or "localaws: a failure of the fault plan")
                life.strike(step, str(fault.spec.get("becomes") or FAILED), words)
    if cluster.state in (RUNNING, WAITING):
        loss = faults.striking("core_loss", cluster.id, life.age, **here)
        if loss is not None and cluster.id not in loss.done:
            loss.done.add(cluster.id)
            _lose_core_nodes(life, loss)


def _failure(fault: Fault) -> Ending:
    code = str(fault.spec.get("code") or "INSTANCE_FAILURE")
    message = str(fault.spec.get("reason") or f"localaws: {code} of the fault plan")
    return Ending(Reason(message, code), with_errors=code not in IN_ORDER)


def _lose_core_nodes(life: ClusterLife, fault: Fault) -> None:
    nodes = life.cluster.core_nodes
    on_spot = [node for node in nodes if node["Market"] == "SPOT"]
    lost = on_spot[: fault.spec.get("nodes")]
    if not lost:
        return
    if len(lost) == len(nodes):
        message = str(fault.spec.get("reason") or SLAVES_LOST.message)
        life.end(Ending(Reason(message, SLAVES_LOST.code), with_errors=True))
        return
    # EMR replaces them; what ran on them is lost
    for step in life.cluster.steps:
        if step.state == RUNNING:
            life.strike(step, FAILED, str(fault.spec.get("reason") or EXECUTORS_LOST))
