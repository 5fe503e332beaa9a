"""Batch's states, reasons and limits as data, each with where it comes from."""

from __future__ import annotations

# Job states: https://docs.aws.amazon.com/batch/latest/userguide/job_states.html
SUBMITTED = "SUBMITTED"
PENDING = "PENDING"
RUNNABLE = "RUNNABLE"
STARTING = "STARTING"
RUNNING = "RUNNING"
SUCCEEDED = "SUCCEEDED"
FAILED = "FAILED"
JOB_STATES = (SUBMITTED, PENDING, RUNNABLE, STARTING, RUNNING, SUCCEEDED, FAILED)
ENDED = (SUCCEEDED, FAILED)
#: States that CancelJob ends (its page in the API reference).
NOT_STARTED = (SUBMITTED, PENDING, RUNNABLE)

ENABLED = "ENABLED"
DISABLED = "DISABLED"
ACTIVE = "ACTIVE"
INACTIVE = "INACTIVE"

SEQUENTIAL = "SEQUENTIAL"
N_TO_N = "N_TO_N"

RETRY = "RETRY"
EXIT = "EXIT"

# Limits: https://docs.aws.amazon.com/batch/latest/userguide/service_limits.html
ARRAY_SIZE_RANGE = (2, 10_000)
MAX_DEPENDENCIES = 20
MAX_ENVIRONMENTS_OF_QUEUE = 3
#: Bytes of a SubmitJob request.
MAX_SUBMIT_SIZE = 30 * 1024
#: Bytes of a job definition.
MAX_DEFINITION_SIZE = 24 * 1024
MAX_TAGS = 50
#: https://docs.aws.amazon.com/batch/latest/APIReference/API_DescribeJobs.html
MAX_DESCRIBED = 100
#: https://docs.aws.amazon.com/batch/latest/APIReference/API_ListJobs.html
LISTED_BY_STATUS = 1000
LISTED_BY_FILTER = 100
#: Of environments, queues and definitions:
#: https://docs.aws.amazon.com/batch/latest/APIReference/API_DescribeJobQueues.html
PAGE = 100
#: https://docs.aws.amazon.com/batch/latest/APIReference/API_TerminateJobs.html
MAX_BULK = 50
#: https://docs.aws.amazon.com/batch/latest/APIReference/API_GetJobQueueSnapshot.html
MAX_SNAPSHOT = 100
#: https://docs.aws.amazon.com/batch/latest/APIReference/API_RetryStrategy.html
ATTEMPTS_RANGE = (1, 10)
MAX_EXIT_RULES = 5
#: Seconds; https://docs.aws.amazon.com/batch/latest/APIReference/API_JobTimeout.html
MIN_TIMEOUT = 60
#: Seconds between SIGTERM and SIGKILL:
#: https://docs.aws.amazon.com/batch/latest/userguide/job_timeouts.html
STOP_GRACE = 30
#: MiB; https://docs.aws.amazon.com/batch/latest/APIReference/API_ResourceRequirement.html
MIN_MEMORY = 4

#: https://docs.aws.amazon.com/batch/latest/userguide/using_cloudwatch_logs.html
LOG_GROUP = "/aws/batch/job"

# Status reasons of jobs
EXITED = "Essential container in task exited"
NOT_STARTED_REASON = "Task failed to start"
TIMED_OUT = "Job attempt duration exceeded timeout"
CHILD_FAILED = "Array Child Job failed"
DEPENDENCY_FAILED = "Dependent Job failed"
SERVER_STOPPED = "localaws stopped before the job had ended: what ran of it was ended"
# https://docs.aws.amazon.com/batch/latest/userguide/job_stuck_in_runnable.html
FITS_NOWHERE = (
    "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - The job resource requirement (vCPU/memory/GPU) is "
    "higher than that can be met by the CE(s) attached to the job queue."
)
EXCEEDS_MAX_VCPUS = (
    "MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE - CE(s) associated with the job queue "
    "cannot meet the CPU requirement of the job because of their maxvCpus."
)

# Reasons of containers, as ECS words them:
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/stopped-task-error-codes.html
OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"


def host_lost(instance_id: str) -> str:
    """Why an attempt ended whose spot instance was reclaimed."""
    return f"Host EC2 (instance {instance_id}) terminated."


def pull_failed(image: str) -> str:
    """Why a container did not start whose image is not there."""
    return (
        "CannotPullContainerError: Error response from daemon: pull access denied for "
        f"{image.partition(':')[0]}, repository does not exist or may require 'docker login': "
        "denied: requested access to the resource is denied"
    )


def command_not_found(command: str) -> str:
    """Why a container did not start whose command is not in the image."""
    return (
        "CannotStartContainerError: Error response from daemon: failed to create task for "
        "container: failed to create shim task: OCI runtime create failed: runc create failed: "
        f'unable to start container process: exec: "{command}": executable file not found in '
        "$PATH: unknown"
    )


NO_COMMAND = "CannotCreateContainerError: Error response from daemon: No command specified"
NO_LOG_GROUP = (
    "CannotStartContainerError: Error response from daemon: failed to initialize logging driver: "
    "failed to create Cloudwatch log stream: ResourceNotFoundException: The specified log group "
    "does not exist."
)
