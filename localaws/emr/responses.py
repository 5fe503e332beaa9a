"""EMR's HTTP operations: take parameters, call the backend, answer in the API's shape."""

from __future__ import annotations

import base64
import binascii
from typing import Any, NoReturn

from moto.core.responses import ActionResult, EmptyResult
from moto.emr.models import emr_backends
from moto.emr.responses import ElasticMapReduceResponse

from localaws.emr.backend import LocalEmrBackend
from localaws.emr.errors import InvalidRequestException
from localaws.emr.states import PAGE
from localaws.server import LISTING_LAG


class LocalEmrResponse(ElasticMapReduceResponse):
    """moto calls the method that is named as the operation, in snake case."""

    # parameters keep the API's spelling
    PROTOCOL_PARSER_MAP_TYPE: Any = dict

    @property
    def local(self) -> LocalEmrBackend:
        """The backend of the caller's account and region."""
        backend = emr_backends[self.current_account][self.region]
        if not isinstance(backend, LocalEmrBackend):
            raise TypeError(f"EMR of {self.region} is moto's own: localaws.emr was not installed")
        return backend

    def run_job_flow(self) -> ActionResult:
        """Start a cluster."""
        cluster = self.local.run(dict(self.params))
        return ActionResult({"JobFlowId": cluster.id, "ClusterArn": cluster.arn})

    def describe_cluster(self) -> ActionResult:
        """Describe one cluster."""
        return ActionResult({"Cluster": self.local.cluster(self._id).as_api()})

    def list_clusters(self) -> ActionResult:
        """List clusters, 50 a page, newest first."""
        clusters = self.local.listed(
            self.params.get("ClusterStates") or [],
            self.params.get("CreatedAfter"),
            self.params.get("CreatedBefore"),
            self._lag,
        )
        return self._page("Clusters", [(c.id, c.summary()) for c in clusters])

    def list_instance_groups(self) -> ActionResult:
        """List the instance groups of a cluster."""
        return self._groups("InstanceGroups", fleets=False)

    def list_instance_fleets(self) -> ActionResult:
        """List the instance fleets of a cluster."""
        return self._groups("InstanceFleets", fleets=True)

    def list_instances(self) -> ActionResult:
        """List the instances of a cluster, or of some of its groups."""
        cluster, params = self.local.cluster(self._id), self.params
        wanted = params.get("InstanceGroupId") or params.get("InstanceFleetId")
        kind = params.get("InstanceFleetType")
        kinds = params.get("InstanceGroupTypes") or ([kind] if kind else [])
        instances = [
            (instance["Id"], instance)
            for group in cluster.groups
            if (not wanted or group.id == wanted) and (not kinds or group.role in kinds)
            for instance in group.instances_as_api(cluster.group_state(), cluster.timeline())
        ]
        states = params.get("InstanceStates") or []
        found = [(i, x) for i, x in instances if not states or x["Status"]["State"] in states]
        return self._page("Instances", found)

    def list_bootstrap_actions(self) -> ActionResult:
        """List the bootstrap actions of a cluster."""
        actions = self.local.cluster(self._id).request.get("BootstrapActions") or []
        commands = [
            {
                "Name": action["Name"],
                "ScriptPath": action["ScriptBootstrapAction"]["Path"],
                "Args": action["ScriptBootstrapAction"].get("Args") or [],
            }
            for action in actions
        ]
        return self._page("BootstrapActions", [(str(n), c) for n, c in enumerate(commands)])

    def add_job_flow_steps(self) -> ActionResult:
        """Add steps."""
        steps = self.local.add_local_steps(self.params["JobFlowId"], self.params.get("Steps") or [])
        return ActionResult({"StepIds": [step.id for step in steps]})

    def list_steps(self) -> ActionResult:
        """List steps, 50 a page, newest first."""
        params = self.params
        ids, states = params.get("StepIds") or [], params.get("StepStates") or []
        steps = self.local.steps(self._id, ids, states, self._lag)
        return self._page("Steps", [(step.id, step.as_api()) for step in steps])

    def describe_step(self) -> ActionResult:
        """Describe one step."""
        step = self.local.step(self._id, self.params.get("StepId", ""))
        return ActionResult({"Step": step.as_api()})

    def cancel_steps(self) -> ActionResult:
        """Cancel steps that wait or run."""
        option = self.params.get("StepCancellationOption") or "SEND_INTERRUPT"
        infos = self.local.cancel(self._id, self.params.get("StepIds") or [], option)
        return ActionResult({"CancelStepsInfoList": infos})

    def terminate_job_flows(self) -> ActionResult:
        """End clusters."""
        self.local.terminate(self.params.get("JobFlowIds") or [])
        return EmptyResult()

    def set_termination_protection(self) -> ActionResult:
        """Protect clusters, or stop protecting them."""
        ids = self.params.get("JobFlowIds") or []
        self.local.protect(ids, bool(self.params.get("TerminationProtected")))
        return EmptyResult()

    def set_keep_job_flow_alive_when_no_steps(self) -> ActionResult:
        """Keep clusters alive without steps, or not."""
        for cluster in self.local.job_flows(self.params.get("JobFlowIds") or []):
            cluster.keep_alive = bool(self.params.get("KeepJobFlowAliveWhenNoSteps"))
            self.local.notify(cluster)
        return EmptyResult()

    def set_visible_to_all_users(self) -> ActionResult:
        """Set who sees clusters."""
        for cluster in self.local.job_flows(self.params.get("JobFlowIds") or []):
            cluster.visible = bool(self.params.get("VisibleToAllUsers"))
        return EmptyResult()

    def put_auto_termination_policy(self) -> ActionResult:
        """Set the idle time after which a cluster ends."""
        self.local.set_idle_timeout(self._id, self.params.get("AutoTerminationPolicy"))
        return EmptyResult()

    def get_auto_termination_policy(self) -> ActionResult:
        """Tell the idle time after which a cluster ends."""
        timeout = self.local.cluster(self._id).idle_timeout
        return ActionResult(
            {} if timeout is None else {"AutoTerminationPolicy": {"IdleTimeout": timeout}}
        )

    def remove_auto_termination_policy(self) -> ActionResult:
        """Let a cluster idle for ever."""
        self.local.set_idle_timeout(self._id, None)
        return EmptyResult()

    def modify_cluster(self) -> ActionResult:
        """Change StepConcurrencyLevel."""
        level = self.params.get("StepConcurrencyLevel")
        cluster = self.local.set_concurrency(self._id, level)
        return ActionResult({"StepConcurrencyLevel": cluster.concurrency})

    def add_tags(self) -> ActionResult:
        """Tag a cluster."""
        self.local.tag(self.params.get("ResourceId", ""), self.params.get("Tags") or [])
        return EmptyResult()

    def remove_tags(self) -> ActionResult:
        """Remove a cluster's tags."""
        self.local.untag(self.params.get("ResourceId", ""), self.params.get("TagKeys") or [])
        return EmptyResult()

    def _missing(self) -> NoReturn:
        raise NotImplementedError("it is not part of localaws")

    # moto has these for its own clusters, which nobody makes here
    add_instance_groups = _missing
    modify_instance_groups = _missing
    describe_job_flows = _missing
    put_auto_scaling_policy = _missing
    remove_auto_scaling_policy = _missing

    @property
    def _id(self) -> str:
        return str(self.params.get("ClusterId", ""))

    @property
    def _lag(self) -> float:
        return float(self.normalized_request.environ.get(LISTING_LAG, 0.0))

    def _groups(self, key: str, *, fleets: bool) -> ActionResult:
        cluster = self.local.cluster(self._id)
        if cluster.groups[0].is_fleet != fleets:
            raise InvalidRequestException(
                "Instance fleets and instance groups are mutually exclusive. The EMR cluster "
                f"specified in the request uses instance {'groups' if fleets else 'fleets'}."
            )
        state, timeline = cluster.group_state(), cluster.timeline()
        return self._page(key, [(g.id, g.as_api(state, timeline)) for g in cluster.groups])

    def _page(self, key: str, items: list[tuple[str, Any]]) -> ActionResult:
        """Cut a page; the marker names the last item given, so that new ones shift nothing."""
        marker = self.params.get("Marker")
        if marker:
            ids = [item_id for item_id, _ in items]
            last = _decode(marker)
            if last not in ids:
                raise InvalidRequestException("The marker is not valid.")
            items = items[ids.index(last) + 1 :]
        page = items[:PAGE]
        result: dict[str, Any] = {key: [item for _, item in page]}
        if len(items) > PAGE:
            result["Marker"] = base64.b64encode(page[-1][0].encode()).decode()
        return ActionResult(result)


def _decode(marker: str) -> str:
    try:
        return base64.b64decode(marker).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
