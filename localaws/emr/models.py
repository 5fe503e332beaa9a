"""What EMR knows of clusters and steps: plain data that can be pickled, in the API's spelling."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from localaws.emr.states import (
    CANCEL_AND_WAIT,
    CANCELLED,
    COMPLETED,
    ENDED,
    FAILED,
    HA_PRIMARIES,
    INTERRUPTED,
    NO_REASON,
    PENDING,
    PROVISIONING,
    RUNNING,
    STARTING,
    STEP_ACTIVE,
    TERMINATE_CLUSTER,
    TERMINATE_JOB_FLOW,
    Reason,
)

_LETTERS = string.digits + string.ascii_uppercase

#: Versions of applications by the release's major number; the last digit differs by minor release.
#: https://docs.aws.amazon.com/emr/latest/ReleaseGuide/emr-release-app-versions-7.x.html
APPLICATION_VERSIONS = {
    "7": {"Hadoop": "3.4.1", "Hive": "3.1.3", "Spark": "3.5.6", "Pig": "0.17.0", "Presto": "0.287"},
    "6": {"Hadoop": "3.2.1", "Hive": "3.1.3", "Spark": "3.3.0", "Pig": "0.17.0", "Presto": "0.273"},
}


def new_id(prefix: str) -> str:
    """Make an id such as ``j-2AXXXXXXGAPLF``."""
    return f"{prefix}-{''.join(secrets.choice(_LETTERS) for _ in range(13))}"


def now() -> datetime:
    """Return the time with EMR's precision, milliseconds."""
    time = datetime.now(UTC)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def present(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is not there: AWS gives no key for it."""
    return {key: value for key, value in values.items() if value is not None}


@dataclass
class Step:
    """One step; ``config`` is the request's StepConfig."""

    config: dict[str, Any]
    id: str = field(default_factory=lambda: new_id("s"))
    state: str = PENDING
    reason: Reason = NO_REASON
    failure: dict[str, str] | None = None
    created: datetime = field(default_factory=now)
    started: datetime | None = None
    told_to_end: datetime | None = None
    ended: datetime | None = None

    @property
    def name(self) -> str:
        """The step's name."""
        return str(self.config.get("Name", ""))

    @property
    def action_on_failure(self) -> str:
        """What the cluster does when the step fails."""
        action = self.config.get("ActionOnFailure") or TERMINATE_CLUSTER
        return TERMINATE_CLUSTER if action == TERMINATE_JOB_FLOW else str(action)

    @property
    def jar(self) -> str:
        """The jar that the step runs."""
        return str(self.config.get("HadoopJarStep", {}).get("Jar", ""))

    @property
    def args(self) -> list[str]:
        """The jar's arguments."""
        return [str(arg) for arg in self.config.get("HadoopJarStep", {}).get("Args") or []]

    @property
    def is_active(self) -> bool:
        """Say whether the step may still do something."""
        return self.state in STEP_ACTIVE

    def start(self) -> None:
        """Note that the step's process starts."""
        self.state, self.started = RUNNING, now()

    def tell_to_end(self) -> None:
        """Note that it was cancelled, or its cluster terminated."""
        if self.is_active:
            self.told_to_end = self.told_to_end or now()

    def end(
        self, state: str, reason: Reason = NO_REASON, failure: dict[str, str] | None = None
    ) -> None:
        """Note that the step is over; the first end counts."""
        if self.state in (COMPLETED, FAILED, CANCELLED, INTERRUPTED):
            return
        self.state, self.reason, self.failure, self.ended = state, reason, failure, now()

    def as_api(self) -> dict[str, Any]:
        """Return Step, which is StepSummary too."""
        jar = self.config.get("HadoopJarStep", {})
        config = {
            "Jar": self.jar,
            "Properties": {p["Key"]: p.get("Value", "") for p in jar.get("Properties") or []},
            "MainClass": jar.get("MainClass"),
            "Args": self.args,
        }
        timeline = {
            "CreationDateTime": self.created,
            "StartDateTime": self.started,
            "EndDateTime": self.ended,
        }
        status = {
            "State": self.state,
            "StateChangeReason": self.reason.as_api(),
            "FailureDetails": self.failure,
            "Timeline": present(timeline),
        }
        return {
            "Id": self.id,
            "Name": self.name,
            "Config": present(config),
            "ActionOnFailure": self.action_on_failure,
            "Status": present(status),
        }

    def audit(self) -> dict[str, Any]:
        """Return what the audit of its cluster tells of it."""
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "times": _times(self),
        }


@dataclass
class Group:
    """An instance group or an instance fleet, with the instances that it got."""

    id: str
    role: str
    request: dict[str, Any]
    instances: list[dict[str, str]]

    @classmethod
    def of_group(cls, request: dict[str, Any]) -> Group:
        """Make an instance group of an InstanceGroupConfig."""
        instances = [
            _instance(str(request.get("InstanceType", "")), request.get("Market") or "ON_DEMAND")
            for _ in range(int(request.get("InstanceCount") or 0))
        ]
        return cls(new_id("ig"), str(request["InstanceRole"]), request, instances)

    @classmethod
    def of_fleet(cls, request: dict[str, Any]) -> Group:
        """Make a fleet of an InstanceFleetConfig: its first type fills the target capacities."""
        types = request.get("InstanceTypeConfigs") or [{}]
        kind, weight = str(types[0].get("InstanceType", "")), types[0].get("WeightedCapacity") or 1
        instances = [
            _instance(kind, market)
            for key, market in (
                ("TargetOnDemandCapacity", "ON_DEMAND"),
                ("TargetSpotCapacity", "SPOT"),
            )
            for _ in range(-(-int(request.get(key) or 0) // int(weight)))
        ]
        return cls(new_id("if"), str(request["InstanceFleetType"]), request, instances)

    @property
    def is_fleet(self) -> bool:
        """Say whether it is a fleet."""
        return self.id.startswith("if-")

    def as_api(self, state: str, timeline: dict[str, Any]) -> dict[str, Any]:
        """Return InstanceGroup or InstanceFleet."""
        status = {"State": state, "StateChangeReason": {"Message": ""}, "Timeline": timeline}
        common = {"Id": self.id, "Name": self.request.get("Name"), "Status": status}
        return present({**common, **(self._fleet() if self.is_fleet else self._group())})

    def _group(self) -> dict[str, Any]:
        request, ebs = self.request, self.request.get("EbsConfiguration") or {}
        volumes = [
            {"VolumeSpecification": device["VolumeSpecification"], "Device": f"/dev/sd{letter}"}
            for device in ebs.get("EbsBlockDeviceConfigs") or []
            for letter in string.ascii_lowercase[1 : 1 + int(device.get("VolumesPerInstance") or 1)]
        ]
        return {
            "Market": request.get("Market") or "ON_DEMAND",
            "InstanceGroupType": self.role,
            "BidPrice": request.get("BidPrice"),
            "InstanceType": request.get("InstanceType"),
            "RequestedInstanceCount": len(self.instances),
            "RunningInstanceCount": len(self.instances),
            "Configurations": request.get("Configurations") or [],
            "EbsBlockDevices": volumes,
            "EbsOptimized": ebs.get("EbsOptimized"),
            "CustomAmiId": request.get("CustomAmiId"),
            "ShrinkPolicy": {},
        }

    def _fleet(self) -> dict[str, Any]:
        request = self.request
        on_demand = int(request.get("TargetOnDemandCapacity") or 0)
        spot = int(request.get("TargetSpotCapacity") or 0)
        return {
            "InstanceFleetType": self.role,
            "TargetOnDemandCapacity": on_demand,
            "TargetSpotCapacity": spot,
            "ProvisionedOnDemandCapacity": on_demand,
            "ProvisionedSpotCapacity": spot,
            "InstanceTypeSpecifications": [
                _type_specification(kind) for kind in request.get("InstanceTypeConfigs") or []
            ],
            "LaunchSpecifications": request.get("LaunchSpecifications"),
            "ResizeSpecifications": request.get("ResizeSpecifications"),
        }

    def instances_as_api(self, state: str, timeline: dict[str, Any]) -> list[dict[str, Any]]:
        """Return Instance for each instance."""
        status = {"State": state, "StateChangeReason": {}, "Timeline": timeline}
        group = "InstanceFleetId" if self.is_fleet else "InstanceGroupId"
        return [{**instance, group: self.id, "Status": status} for instance in self.instances]


def _instance(kind: str, market: str) -> dict[str, str]:
    number = secrets.randbelow(1 << 16)
    address = f"10.0.{number >> 8}.{number & 255}"
    return {
        "Id": new_id("ci"),
        "Ec2InstanceId": f"i-0{secrets.token_hex(8)}",
        "PrivateDnsName": f"ip-{address.replace('.', '-')}.ec2.internal",
        "PrivateIpAddress": address,
        "InstanceType": kind,
        "Market": market,
    }


def _type_specification(kind: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in kind.items() if k != "EbsConfiguration"}
    ebs = kind.get("EbsConfiguration") or {}
    return {**kept, "EbsOptimized": ebs.get("EbsOptimized", False)}


@dataclass
class Cluster:
    """One cluster; ``request`` is the RunJobFlow request that made it."""

    request: dict[str, Any]
    account: str
    region: str
    groups: list[Group]
    id: str = field(default_factory=lambda: new_id("j"))
    state: str = STARTING
    reason: Reason = PROVISIONING
    created: datetime = field(default_factory=now)
    ready: datetime | None = None
    told_to_end: datetime | None = None
    ended: datetime | None = None
    steps: list[Step] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    protected: bool = False
    keep_alive: bool = False
    concurrency: int = 1
    idle_timeout: int | None = None
    visible: bool = True

    @property
    def name(self) -> str:
        """The cluster's name."""
        return str(self.request.get("Name", ""))

    @property
    def arn(self) -> str:
        """The cluster's ARN."""
        return f"arn:aws:elasticmapreduce:{self.region}:{self.account}:cluster/{self.id}"

    @property
    def primaries(self) -> int:
        """Number of primary nodes."""
        return sum(len(group.instances) for group in self.groups if group.role == "MASTER")

    @property
    def core_nodes(self) -> list[dict[str, str]]:
        """The instances of the core group or fleet."""
        return [one for group in self.groups if group.role == "CORE" for one in group.instances]

    @property
    def is_ha(self) -> bool:
        """Say whether three primaries keep the cluster alive, whatever was asked otherwise."""
        return self.primaries == HA_PRIMARIES

    @property
    def primary(self) -> dict[str, str]:
        """The instance on which steps run."""
        masters = [g for g in self.groups if g.role == "MASTER" and g.instances]
        return masters[0].instances[0]

    @property
    def has_ended(self) -> bool:
        """Say whether it is TERMINATED or TERMINATED_WITH_ERRORS."""
        return self.state in ENDED

    @property
    def log_uri(self) -> str | None:
        """Where logs go, ``s3://bucket/prefix``, without a slash at the end."""
        uri = self.request.get("LogUri")
        return "s3://" + str(uri).split("://", 1)[-1].rstrip("/") if uri else None

    def log_prefix(self, *parts: str) -> str | None:
        """Return the S3 address of a log folder of this cluster."""
        return "/".join([self.log_uri, self.id, *parts]) if self.log_uri else None

    def step(self, step_id: str) -> Step | None:
        """Find a step."""
        return next((step for step in self.steps if step.id == step_id), None)

    def enter(self, state: str, reason: Reason) -> None:
        """Change the state; an ended cluster stays as it is."""
        if self.has_ended:
            return
        self.state, self.reason = state, reason
        if state in (RUNNING, "WAITING") and self.ready is None:
            self.ready = now()
        if state in ENDED:
            self.ended = now()

    def tell_to_end(self) -> None:
        """Note that it was terminated, and its steps with it."""
        self.told_to_end = self.told_to_end or now()
        for step in self.steps:
            step.tell_to_end()

    def timeline(self) -> dict[str, Any]:
        """Return ClusterTimeline."""
        return present(
            {
                "CreationDateTime": self.created,
                "ReadyDateTime": self.ready,
                "EndDateTime": self.ended,
            }
        )

    def group_state(self) -> str:
        """Return the state of groups, fleets and instances, which follow the cluster's."""
        return {
            STARTING: "PROVISIONING",
            "BOOTSTRAPPING": "BOOTSTRAPPING",
            "TERMINATING": "TERMINATED",
        }.get(self.state, "TERMINATED" if self.has_ended else "RUNNING")

    def summary(self) -> dict[str, Any]:
        """Return ClusterSummary, which has no tags."""
        status = {
            "State": self.state,
            "StateChangeReason": self.reason.as_api(),
            "Timeline": self.timeline(),
        }
        return {
            "Id": self.id,
            "Name": self.name,
            "Status": status,
            "NormalizedInstanceHours": 0,
            "ClusterArn": self.arn,
        }

    def as_api(self) -> dict[str, Any]:
        """Return Cluster."""
        request = self.request
        details = {
            "Ec2InstanceAttributes": self._ec2_attributes(),
            "InstanceCollectionType": (
                "INSTANCE_FLEET" if any(g.is_fleet for g in self.groups) else "INSTANCE_GROUP"
            ),
            # EMR gives the address back with the scheme s3n and a slash at the end
            "LogUri": f"s3n://{self.log_uri[5:]}/" if self.log_uri else None,
            "AutoTerminate": not self.keep_alive,
            "TerminationProtected": self.protected,
            "VisibleToAllUsers": self.visible,
            "Applications": self._applications(),
            "Tags": [{"Key": k, "Value": v} for k, v in self.tags.items()],
            "MasterPublicDnsName": self.primary["PrivateDnsName"] if self.ready else None,
            "Configurations": request.get("Configurations") or [],
            "StepConcurrencyLevel": self.concurrency,
            "ScaleDownBehavior": request.get("ScaleDownBehavior") or "TERMINATE_AT_TASK_COMPLETION",
        }
        kept = (
            "ReleaseLabel",
            "ServiceRole",
            "AutoScalingRole",
            "SecurityConfiguration",
            "CustomAmiId",
            "EbsRootVolumeSize",
            "EbsRootVolumeIops",
            "EbsRootVolumeThroughput",
            "KerberosAttributes",
            "RepoUpgradeOnBoot",
            "OSReleaseLabel",
            "PlacementGroups",
        )
        return present({**self.summary(), **details, **{key: request.get(key) for key in kept}})

    def _ec2_attributes(self) -> dict[str, Any]:
        instances = self.request.get("Instances") or {}
        subnets = instances.get("Ec2SubnetIds") or [instances.get("Ec2SubnetId")]
        kept = (
            "Ec2KeyName",
            "EmrManagedMasterSecurityGroup",
            "EmrManagedSlaveSecurityGroup",
            "ServiceAccessSecurityGroup",
            "AdditionalMasterSecurityGroups",
            "AdditionalSlaveSecurityGroups",
        )
        zone = (instances.get("Placement") or {}).get("AvailabilityZone") or f"{self.region}a"
        return present(
            {
                "Ec2SubnetId": subnets[0],
                "RequestedEc2SubnetIds": [s for s in subnets if s],
                "Ec2AvailabilityZone": zone,
                "IamInstanceProfile": self.request.get("JobFlowRole"),
                **{key: instances.get(key) for key in kept},
            }
        )

    def _applications(self) -> list[dict[str, Any]]:
        major = str(self.request.get("ReleaseLabel") or "emr-7").removeprefix("emr-")[:1]
        versions = APPLICATION_VERSIONS.get(major, APPLICATION_VERSIONS["7"])
        asked = self.request.get("Applications") or [{"Name": "Hadoop"}]
        return [
            {**app, "Version": app.get("Version") or versions.get(app["Name"], "1.0.0")}
            for app in asked
        ]

    def audit(self) -> dict[str, Any]:
        """Return what ``/localaws/emr/clusters`` tells of it."""
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "reason": self.reason.as_api(),
            "created": self.created.isoformat(),
            "ended": self.ended.isoformat() if self.ended else None,
            "times": _times(self),
            "protected": self.protected,
            "tags": dict(self.tags),
            "steps": [step.audit() for step in self.steps],
        }


def cancels_others(step: Step, concurrency: int) -> bool:
    """Say whether this step's failure cancels the pending ones.

    Above concurrency 1 neither CANCEL_AND_WAIT nor TERMINATE_CLUSTER has an effect (ActionOnFailure
    in https://docs.aws.amazon.com/emr/latest/APIReference/API_StepConfig.html).
    """
    return concurrency == 1 and step.action_on_failure in (CANCEL_AND_WAIT, TERMINATE_CLUSTER)


def _times(one: Cluster | Step) -> dict[str, float | None]:
    times = {"created": one.created, "told": one.told_to_end, "ended": one.ended}
    return {key: time.timestamp() if time else None for key, time in times.items()}
