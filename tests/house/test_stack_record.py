"""What is written down about a stack, and whether its data are whole."""

from __future__ import annotations

import json
import re
import socket
from importlib.metadata import version

import pytest

from scripts.component import Identity
from scripts.ports import PortTakenError, free_port, refuse_taken_port
from scripts.stack_record import Record, stop_recorded, why_data_are_lost


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = Record(
        "http://a", "http://l", {"scheduler": Identity(7, 1.5)}, embedded_postgres=False
    )

    record.write(tmp_path)

    assert Record.read(tmp_path) == record
    assert [path.name for path in tmp_path.iterdir()] == ["stack.json"]


def test_where_nothing_was_started_nothing_is_ended(tmp_path):
    assert Record.read(tmp_path) is None
    assert stop_recorded(tmp_path) is False


def snapshot(folder, **changes):
    folder.mkdir(exist_ok=True)
    said = {"clean": True, "id": "1", "generation": 1, "moto": version("moto"), **changes}
    (folder / "snapshot.json").write_text(json.dumps(said))


def test_data_of_a_localaws_that_stopped_in_order_are_whole(tmp_path):
    snapshot(tmp_path)

    assert why_data_are_lost(tmp_path) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clean": False}, "did not stop in order"),
        ({"moto": "1.0"}, r"of moto 1\.0, and this is moto"),
    ],
)
def test_data_that_a_history_cannot_rely_on_are_lost_for_a_named_reason(tmp_path, changes, said):
    snapshot(tmp_path, **changes)

    assert re.search(said, why_data_are_lost(tmp_path) or "")


def test_a_localaws_that_never_wrote_anything_kept_nothing(tmp_path):
    assert "kept nothing" in (why_data_are_lost(tmp_path / "none") or "")


def test_a_taken_port_is_refused_with_who_has_it_and_how_to_take_another():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]

        with pytest.raises(PortTakenError, match=f"port {port} is taken") as refusal:
            refuse_taken_port(port, "AIRFLOW_PORT")

    assert f"make up AIRFLOW_PORT={port + 1}" in str(refusal.value)


def test_a_free_port_is_not_refused():
    port = free_port()

    refuse_taken_port(port, "AIRFLOW_PORT")

    assert 1024 < port < 65536
