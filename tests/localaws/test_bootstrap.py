"""Bootstrap actions: they run before any step, and a failing one ends the cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.localaws.conftest import BUCKET, Emr, bash, until


def action(path: str, *args: str) -> dict[str, Any]:
    return {"Name": path, "ScriptBootstrapAction": {"Path": path, "Args": list(args)}}


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def node(emr: Emr, cluster: str) -> str:
    instances = emr.client.list_instances(ClusterId=cluster, InstanceGroupTypes=["MASTER"])
    return str(instances["Instances"][0]["Ec2InstanceId"])


def test_actions_run_in_order_with_their_arguments_before_the_steps(
    emr: Emr, tmp_path: Path
) -> None:
    script = emr.put("boot/note.sh", '#!/bin/bash\necho "$1" | tee -a "$2"\n')
    notes = tmp_path / "notes"
    cluster = emr.start(
        keep=False,
        BootstrapActions=[action(script, "one", str(notes)), action(script, "two", str(notes))],
        Steps=[bash(f"echo step >> {notes}")],
    )

    emr.await_state(cluster, "TERMINATED")

    assert notes.read_text().split() == ["one", "two", "step"]
    log = ("node", node(emr, cluster), "bootstrap-actions", "2")
    assert emr.log(cluster, *log, "stdout") == "two\n"
    assert "exit code 0" in emr.log(cluster, *log, "controller")
    listed = emr.client.list_bootstrap_actions(ClusterId=cluster)["BootstrapActions"]
    assert [a["Args"][0] for a in listed] == ["one", "two"]


def test_a_failing_action_ends_the_cluster_with_its_log(emr: Emr) -> None:
    good = emr.put("boot/good.sh", "#!/bin/sh\ntrue\n")
    bad = emr.put("boot/bad.sh", "#!/bin/sh\necho no such package >&2\nexit 7\n")
    cluster = emr.start(BootstrapActions=[action(good), action(bad)], Steps=[bash("true")])

    status = emr.await_state(cluster, "TERMINATED_WITH_ERRORS")["Status"]
    instance = node(emr, cluster)

    assert status["StateChangeReason"] == {
        "Code": "BOOTSTRAP_FAILURE",
        "Message": f"On the master instance ({instance}), bootstrap action 2 returned a non-zero "
        "return code",
    }
    assert "ReadyDateTime" not in status["Timeline"]
    log = ("node", instance, "bootstrap-actions", "2", "stderr")
    assert emr.log(cluster, *log) == "no such package\n"
    (step,) = emr.client.list_steps(ClusterId=cluster)["Steps"]
    assert step["Status"]["State"] == "CANCELLED"


def test_an_action_whose_script_is_missing_ends_the_cluster(emr: Emr) -> None:
    cluster = emr.start(BootstrapActions=[action(f"s3://{BUCKET}/boot/none.sh")])

    reason = emr.await_state(cluster, "TERMINATED_WITH_ERRORS")["Status"]["StateChangeReason"]

    assert reason["Code"] == "BOOTSTRAP_FAILURE"
    assert "failed attempting to download bootstrap action 1" in reason["Message"]


def test_a_daemon_of_an_action_lives_as_long_as_the_cluster(emr: Emr, tmp_path: Path) -> None:
    # it leaves its session and keeps the script's output open: nobody may wait for that
    daemon = tmp_path / "pid"
    script = emr.put(
        "boot/daemon.sh",
        '#!/bin/bash\nsetsid bash -c \'echo $$ > "$0"; exec sleep 600\' "$1" &\n'
        'while [ ! -s "$1" ]; do sleep 0.02; done\n',
    )
    cluster = emr.start(BootstrapActions=[action(script, str(daemon))])

    emr.await_state(cluster, "WAITING")
    pid = int(daemon.read_text())
    lived = is_alive(pid)
    emr.client.terminate_job_flows(JobFlowIds=[cluster])
    emr.await_state(cluster, "TERMINATED")

    assert lived
    until(lambda: not is_alive(pid), "the daemon to be gone", 5)


def test_a_cluster_can_be_ended_while_it_bootstraps(emr: Emr) -> None:
    script = emr.put("boot/long.sh", "#!/bin/sh\nsleep 300\n")
    cluster = emr.start(BootstrapActions=[action(script)])
    emr.await_state(cluster, "BOOTSTRAPPING")

    emr.client.terminate_job_flows(JobFlowIds=[cluster])
    status = emr.await_state(cluster, "TERMINATED")["Status"]

    assert status["StateChangeReason"]["Code"] == "USER_REQUEST"
