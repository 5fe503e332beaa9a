"""EMR's states, reasons and limits as data, each with where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

# Cluster states: https://docs.aws.amazon.com/emr/latest/APIReference/API_ClusterStatus.html
STARTING = "STARTING"
BOOTSTRAPPING = "BOOTSTRAPPING"
RUNNING = "RUNNING"
WAITING = "WAITING"
TERMINATING = "TERMINATING"
TERMINATED = "TERMINATED"
TERMINATED_WITH_ERRORS = "TERMINATED_WITH_ERRORS"
CLUSTER_STATES = (
    STARTING,
    BOOTSTRAPPING,
    RUNNING,
    WAITING,
    TERMINATING,
    TERMINATED,
    TERMINATED_WITH_ERRORS,
)
#: States in which steps are accepted (AddJobFlowSteps in the API reference).
ACCEPTS_STEPS = (STARTING, BOOTSTRAPPING, RUNNING, WAITING)
ENDED = (TERMINATED, TERMINATED_WITH_ERRORS)

# Step states: https://docs.aws.amazon.com/emr/latest/APIReference/API_StepStatus.html
PENDING = "PENDING"
CANCEL_PENDING = "CANCEL_PENDING"
COMPLETED = "COMPLETED"
CANCELLED = "CANCELLED"
FAILED = "FAILED"
INTERRUPTED = "INTERRUPTED"
STEP_ACTIVE = (PENDING, CANCEL_PENDING, RUNNING)

CONTINUE = "CONTINUE"
CANCEL_AND_WAIT = "CANCEL_AND_WAIT"
TERMINATE_CLUSTER = "TERMINATE_CLUSTER"
#: The old name of TERMINATE_CLUSTER, still taken.
TERMINATE_JOB_FLOW = "TERMINATE_JOB_FLOW"

#: PENDING and RUNNING steps of a cluster at a time:
#: https://docs.aws.amazon.com/emr/latest/ManagementGuide/AddMoreThan256Steps.html
MAX_ACTIVE_STEPS = 256
MAX_STEP_CONCURRENCY = 256
#: https://docs.aws.amazon.com/emr/latest/APIReference/API_ListSteps.html
MAX_STEP_IDS = 10
PAGE = 50
#: https://docs.aws.amazon.com/emr/latest/APIReference/API_TerminateJobFlows.html
MAX_JOB_FLOW_IDS = 10
#: https://docs.aws.amazon.com/emr/latest/APIReference/API_CancelSteps.html
MAX_CANCEL_IDS = 256
#: Seconds; https://docs.aws.amazon.com/emr/latest/APIReference/API_AutoTerminationPolicy.html
IDLE_TIMEOUT_RANGE = (60, 604_800)
#: Primaries of a cluster that survives the loss of one:
#: https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-plan-ha-launch.html
HA_PRIMARIES = 3
#: Characters of a step's strings together:
#: https://docs.aws.amazon.com/emr/latest/APIReference/API_HadoopJarStepConfig.html
MAX_STEP_STRING = 10_280
MAX_TAGS = 128


@dataclass(frozen=True)
class Reason:
    """Why a cluster or a step is in its state; code is empty where EMR gives none."""

    message: str = ""
    code: str = ""

    def as_api(self) -> dict[str, str]:
        """Return StateChangeReason."""
        pairs = {"Code": self.code, "Message": self.message}
        return {key: value for key, value in pairs.items() if value}


@dataclass(frozen=True)
class Ending:
    """Why a cluster ends, and whether EMR calls that an error."""

    reason: Reason
    with_errors: bool = False


NO_REASON = Reason()
PROVISIONING = Reason("Provisioning Amazon EC2 capacity")
BOOTSTRAP = Reason("Running bootstrap actions")
STEP_RUNS = Reason("Running step")
READY = Reason("Cluster ready to run steps.")
STEPS_COMPLETED = Reason("Steps completed", "ALL_STEPS_COMPLETED")
BY_USER = Reason("Terminated by user request", "USER_REQUEST")
STEP_FAILED = Reason("Shut down as step failed", "STEP_FAILURE")
SERVER_STOPPED = Reason(
    "localaws stopped while the cluster was alive: what ran on it was ended", "INTERNAL_ERROR"
)
STEP_CANCELLED = Reason("Job terminated", "NONE")
#: What EMR says when the last core node on spot was reclaimed.
SLAVES_LOST = Reason("All slaves in the job flow were terminated due to Spot", "INSTANCE_FAILURE")
#: What a driver on YARN prints whose executors went with their node.
EXECUTORS_LOST = (
    "org.apache.spark.SparkException: Job aborted due to stage failure: ExecutorLostFailure "
    "(executor 1 exited caused by one of the running tasks) Reason: Container marked as failed. "
    "Exit status: -100. Diagnostics: Container released on a *lost* node"
)


def idle_reason(seconds: int) -> Reason:
    """Why an idle cluster ended."""
    return Reason(f"Cluster auto-terminated: idle for {seconds} seconds", "ALL_STEPS_COMPLETED")


def bootstrap_reason(instance_id: str, number: int) -> Reason:
    """Why a cluster ended whose bootstrap action ``number`` (from 1) failed."""
    return Reason(
        f"On the master instance ({instance_id}), bootstrap action {number} returned a non-zero "
        "return code",
        "BOOTSTRAP_FAILURE",
    )


def download_reason(instance_id: str, number: int) -> Reason:
    """Why a cluster ended whose bootstrap script could not be fetched."""
    return Reason(
        f"Master instance ({instance_id}) failed attempting to download bootstrap action {number} "
        "file from S3",
        "BOOTSTRAP_FAILURE",
    )
