"""What is stored lives as long as --data, and what ran when the server ended has ended."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from localaws.process import LocalAws, LocalAwsError
from localaws.snapshot import Snapshot, SnapshotError
from tests.localaws.conftest import BUCKET, QUICK, Emr


def record(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "snapshot.json").read_text()))


def test_data_and_history_outlive_a_stop_in_order(tmp_path: Path) -> None:
    aws = LocalAws(data=tmp_path, env=QUICK, seed=False)
    with aws:
        emr = Emr(aws)
        emr.s3.create_bucket(Bucket=BUCKET)
        emr.put("kept", "content")
        done = emr.start(keep=False, Tags=[{"Key": "run", "Value": "1"}])
        emr.await_state(done, "TERMINATED")
        alive = emr.start(StepConcurrencyLevel=1)
        running, waiting = emr.add(alive, "sleep 600", "true")
        emr.await_step(alive, running, "RUNNING")
        during = record(tmp_path)
        with pytest.raises(LocalAwsError, match="another localaws works on"):
            LocalAws(data=tmp_path, seed=False).start()
    stopped = record(tmp_path)

    with aws:
        emr = Emr(aws)
        body = emr.s3.get_object(Bucket=BUCKET, Key="kept")["Body"].read()
        before, broken = emr.cluster(done), emr.cluster(alive)
        steps = [emr.step(alive, step)["Status"] for step in (running, waiting)]
        again = emr.start(keep=False)
        emr.await_state(again, "TERMINATED")
        listed = [c["Id"] for c in emr.client.list_clusters()["Clusters"]]

    assert body == b"content"
    assert before["Status"]["State"] == "TERMINATED"
    assert before["Tags"] == [{"Key": "run", "Value": "1"}]
    assert broken["Status"]["State"] == "TERMINATED_WITH_ERRORS"
    assert broken["Status"]["StateChangeReason"]["Code"] == "INTERNAL_ERROR"
    assert "localaws stopped" in broken["Status"]["StateChangeReason"]["Message"]
    assert [s["State"] for s in steps] == ["INTERRUPTED", "CANCELLED"]
    assert listed == [again, alive, done]
    assert (during["clean"], stopped["clean"]) == (False, True)
    assert (stopped["generation"], record(tmp_path)["generation"]) == (1, 2)
    assert stopped["id"] == record(tmp_path)["id"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "lock",
        "snapshot.json",
        "snapshot.pickle",
        "work",
    ]
    assert list((tmp_path / "work").iterdir()) == []


def test_a_crash_is_seen_and_keeps_the_older_state(tmp_path: Path) -> None:
    aws = LocalAws(data=tmp_path, env=QUICK, seed=False)
    with aws:
        aws.client("s3").create_bucket(Bucket="first")
    with aws:
        aws.client("s3").create_bucket(Bucket="second")
        aws.kill()
    crashed = record(tmp_path)

    with aws:
        buckets = [b["Name"] for b in aws.client("s3").list_buckets()["Buckets"]]
        printed = aws.log()

    assert crashed["clean"] is False
    assert buckets == ["first"]
    assert "did not stop in order" in printed


@pytest.mark.parametrize("damage", ["moto", "pickle"])
def test_a_snapshot_that_cannot_be_used_is_refused_with_what_to_do(
    tmp_path: Path, damage: str
) -> None:
    (tmp_path / "snapshot.pickle").write_bytes(b"not a pickle")
    written_by = "1.0.0" if damage == "moto" else version("moto")
    (tmp_path / "snapshot.json").write_text(json.dumps({"clean": True, "moto": written_by}))

    with pytest.raises(SnapshotError, match="to start anew") as caught:
        Snapshot(tmp_path).load()

    assert ("1.0.0" in str(caught.value)) == (damage == "moto")
