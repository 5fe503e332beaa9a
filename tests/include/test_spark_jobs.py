"""Both Spark jobs, really run: once each as a step runs them, and many cases in one more Spark."""

from __future__ import annotations

import ast
import json
from datetime import date
from pathlib import Path

import pytest
import yaml

from scripts import seed_flights

ROOT = Path(__file__).resolve().parents[2]
JOBS = ROOT / "include" / "spark"
DAY = "2013-01-01"
HEADER = (
    "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,"
    "flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour"
)
GOOD = "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z"


def row(**changes: object) -> str:
    """The good row with some fields changed."""
    fields = dict(zip(HEADER.split(","), GOOD.split(","), strict=True))
    return ",".join(str(value) for value in {**fields, **changes}.values())


# Every line that is set aside, and the reason that must stand beside it.
BAD_LINES = {
    "2013" + "," * 12_000: "line_too_long",
    "   ": "empty_line",
    GOOD.rsplit(",", 1)[0]: "column_count",
    GOOD + ",more": "column_count",
    '2013,1,1,"517,515,2': "column_count",
    row(carrier="NA"): "missing_value",
    row(sched_dep_time=""): "missing_value",
    row(flight="15A5"): "wrong_type",
    row(distance="1400.5"): "wrong_type",
    row(flight="99999999999"): "wrong_type",
    row(time_hour="2013-13-01T10:00:00Z"): "wrong_type",
    row(time_hour="01/01/2013 10:00"): "wrong_type",
    row(carrier="United"): "bad_code",
    row(origin="New York"): "bad_code",
    row(tailnum="N1;DROP"): "bad_code",
    row(dep_time="571", dep_delay="16"): "bad_time",
    row(arr_time="2530"): "bad_time",
    row(day="2", time_hour="2013-01-02T10:00:00Z"): "wrong_day",
    row(month="13"): "wrong_day",
    row(flight="0"): "out_of_range",
    row(distance="-1400"): "out_of_range",
    row(dep_delay="9002"): "out_of_range",
    row(hour="6"): "contradiction",
    row(time_hour="2013-01-01T11:00:00Z"): "contradiction",
    row(dest="EWR"): "contradiction",
    row(dep_delay="3"): "contradiction",
    row(arr_delay="12"): "contradiction",
    row(dep_delay="NA"): "contradiction",
    row(dep_time="NA", dep_delay="NA"): "contradiction",
    row(arr_time="NA"): "contradiction",
    row(tailnum="N99999"): "duplicate",
}
CANCELLED = row(flight=2, dep_time="NA", dep_delay="", arr_time="NA", arr_delay="NA", air_time="NA")
DIVERTED = row(flight=3, arr_delay="NA", air_time="NA", tailnum="NA")
QUOTED = row(flight=4, carrier='"UA"', dest=" IAH ")
PAST_MIDNIGHT = row(
    flight=5,
    sched_dep_time=2359,
    hour=23,
    minute=59,
    time_hour="2013-01-02T04:00:00Z",
    dep_time=1421,
    dep_delay=862,
    sched_arr_time=444,
    arr_time=2400,
    arr_delay=1156,
)
GOOD_LINES = [GOOD, CANCELLED, DIVERTED, QUOTED, PAST_MIDNIGHT]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spark")


@pytest.fixture(scope="module")
def real_day(folder: Path, flights_of_2013: Path) -> Path:
    path = folder / f"{DAY}.csv"
    content = {day: content for day, content, _ in seed_flights.days(flights_of_2013)}
    path.write_bytes(content[date.fromisoformat(DAY)])
    return path


@pytest.fixture(scope="module")
def steps(folder: Path, real_day: Path, spark_submit):
    """The two steps of the real day, as EMR runs them: one spark-submit each."""
    output = f"{folder.as_uri()}/real"
    ingest = spark_submit(
        str(JOBS / "flights_ingest.py"),
        *("--day", DAY, "--input", real_day.as_uri(), "--output", output),
    )
    assert ingest.returncode == 0, ingest.stderr[-3000:]
    report = spark_submit(
        str(JOBS / "flights_report.py"),
        *("--day", DAY, "--flights", f"{output}/flights"),
        *("--rejected", f"{output}/rejected", "--output", output),
    )
    assert report.returncode == 0, report.stderr[-3000:]
    return folder / "real"


@pytest.fixture(scope="module")
def cases(folder: Path, steps: Path, spark_submit):
    """The results of many cases, run in one Spark, by name."""
    inputs = {
        "mixed": [HEADER, *GOOD_LINES, *BAD_LINES],
        "wrong_header": [HEADER.replace("dep_delay", "delay"), GOOD],
        "reordered_header": [",".join(reversed(HEADER.split(","))), GOOD],
        "no_rows": [HEADER],
        "windows": ["\ufeff" + HEADER, GOOD + "\r"],
    }
    for name, lines in inputs.items():
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    (folder / "empty.csv").touch()
    # What an earlier attempt with the same output left behind.
    (folder / "out" / "no_rows").mkdir(parents=True)
    (folder / "out" / "no_rows" / "ingest.json").write_text("{}")

    base = folder.as_uri()

    def ingest(name: str, output: str | None = None, **changes: object) -> dict[str, object]:
        case = {"job": "ingest", "day": DAY, "max_share": 0.05, "input": f"{base}/{name}.csv"}
        return {**case, "output": f"{base}/out/{output or name}", **changes}

    def report(data: str, **changes: object) -> dict[str, object]:
        places = {name: f"{data}/{name}" for name in ("flights", "rejected")}
        return {"job": "report", "day": DAY, **places, "output": f"{data}-report", **changes}

    planned = {
        "mixed": ingest("mixed", max_share=0.9),
        "mixed_again": ingest("mixed", max_share=0.9),
        "too_many_bad": ingest("mixed", "too_many_bad"),
        "windows": ingest("windows"),
        "wrong_header": ingest("wrong_header"),
        "reordered_header": ingest("reordered_header"),
        "no_rows": ingest("no_rows"),
        "empty": ingest("empty"),
        "missing": ingest("missing"),
        "another_day": ingest(DAY, "another_day", day="2013-01-02"),
        "real": {**report(f"{base}/real"), "output": f"{base}/real-again"},
        "report_of_mixed": report(f"{base}/out/mixed"),
        "report_of_another_day": report(f"{base}/real", day="2013-01-02"),
        "report_of_nothing": report(f"{base}/out/nothing"),
        "row_lost": {"job": "sum", "summary": counts(10, 8, 1)},
        "row_twice": {"job": "sum", "summary": counts(10, 9, 2)},
        "rows_add_up": {"job": "sum", "summary": counts(10, 9, 1)},
    }
    asked, results = folder / "cases.json", folder / "results.json"
    asked.write_text(json.dumps(list(planned.values())))
    script = Path(__file__).with_name("spark_cases.py")
    done = spark_submit(str(script), str(asked), str(results))
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(planned, json.loads(results.read_text()), strict=True))


@pytest.mark.spark
class TestIngest:
    def test_the_real_day_is_stored_whole(self, steps):
        summary = json.loads((steps / "ingest.json").read_text())
        read_at = summary.pop("read_at")
        assert read_at.endswith("Z")
        assert summary == {
            "day": DAY,
            "input": (steps.parent / f"{DAY}.csv").as_uri(),
            "rows_in": 842,
            "rows_out": 842,
            "rows_rejected": 0,
            "rejected_by_reason": {},
        }

    def test_a_day_is_one_file_a_dataset(self, steps):
        for dataset in ("flights", "rejected", "delays"):
            assert len(list((steps / dataset).glob("*.parquet"))) == 1

    @pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
    def test_a_bad_line_is_set_aside_with_its_reason(self, cases, line):
        assert {"line": line, "reason": BAD_LINES[line]} in cases["mixed"]["rejected"]

    def test_every_line_is_stored_once(self, cases):
        mixed = cases["mixed"]
        assert sorted(found["line"] for found in mixed["rejected"]) == sorted(BAD_LINES)
        assert sorted(found["flight"] for found in mixed["flights"]) == [2, 3, 4, 5, 1545]
        summary = mixed["summary"]
        assert summary["rows_in"] == len(GOOD_LINES) + len(BAD_LINES)
        assert (summary["rows_out"], summary["rows_rejected"]) == (5, len(BAD_LINES))
        by_reason = summary["rejected_by_reason"]
        assert sum(by_reason.values()) == len(BAD_LINES)
        assert by_reason["contradiction"] == 8

    def test_every_reason_that_the_job_knows_is_tried(self):
        tree = ast.parse((JOBS / "flights_ingest.py").read_text())
        rules = next(node for node in ast.walk(tree) if getattr(node, "name", "") == "broken_rules")
        known = {
            key.value for node in ast.walk(rules) if isinstance(node, ast.Dict) for key in node.keys
        }
        assert {*known, "duplicate"} == set(BAD_LINES.values())

    def test_a_cancelled_flight_is_a_good_row(self, cases):
        cancelled = flight(cases, 2)
        assert cancelled["cancelled"] is True
        assert cancelled["sched_dep_at"] == "2013-01-01T05:15:00.000"
        assert "dep_at" not in cancelled

    def test_a_diverted_flight_left_but_has_no_known_arrival(self, cases):
        diverted = flight(cases, 3)
        assert diverted["cancelled"] is False
        assert diverted["dep_at"] == "2013-01-01T05:17:00.000"
        assert diverted["arr_time"] == 830
        assert "arr_at" not in diverted

    def test_quotes_and_blanks_around_a_field_are_no_part_of_it(self, cases):
        assert (flight(cases, 4)["carrier"], flight(cases, 4)["dest"]) == ("UA", "IAH")

    def test_times_are_dated_across_midnight(self, cases):
        late = flight(cases, 5)
        assert late["sched_dep_at"] == "2013-01-01T23:59:00.000"
        assert late["dep_at"] == "2013-01-02T14:21:00.000"
        assert late["sched_arr_at"] == "2013-01-02T04:44:00.000"
        assert late["arr_at"] == "2013-01-03T00:00:00.000"
        assert late["time_hour"] == "2013-01-02T04:00:00.000Z"

    def test_local_times_carry_no_zone(self, cases):
        types = cases["mixed"]["flights_types"]
        assert {types[name] for name in types if name.endswith("_at")} == {"timestamp_ntz"}
        assert types["time_hour"] == "timestamp"

    def test_a_row_that_is_lost_or_stored_twice_fails_the_run(self, cases):
        assert "10 rows were read" in cases["row_lost"]["error"]
        assert "8 good and 1 bad" in cases["row_lost"]["error"]
        assert "9 good and 2 bad" in cases["row_twice"]["error"]
        assert cases["rows_add_up"] == {}

    def test_a_second_run_replaces_the_first(self, cases):
        first, second = cases["mixed"], cases["mixed_again"]
        assert second["flights"] == first["flights"]
        assert second["rejected"] == first["rejected"]
        assert second["summary"]["read_at"] > first["summary"]["read_at"]

    def test_too_many_bad_rows_fail_with_the_commonest_reasons(self, cases, folder):
        error = cases["too_many_bad"]["error"]
        assert f"{len(BAD_LINES)} of {len(BAD_LINES) + 5} rows" in error
        assert "mostly: contradiction 8, wrong_type 5," in error
        assert len(cases["too_many_bad"]["rejected"]) == len(BAD_LINES)
        assert not (folder / "out" / "too_many_bad" / "ingest.json").exists()

    def test_a_file_saved_on_windows_is_read(self, cases):
        assert cases["windows"]["summary"]["rows_out"] == 1

    def test_a_wrong_header_is_refused_with_the_difference(self, cases):
        error = cases["wrong_header"]["error"]
        assert error.endswith(": missing dep_delay; unknown delay.")
        assert "another order" in cases["reordered_header"]["error"]

    def test_a_day_without_rows_is_refused_and_leaves_no_summary(self, cases, folder):
        assert "no rows" in cases["no_rows"]["error"]
        assert "is empty" in cases["empty"]["error"]
        assert not (folder / "out" / "no_rows" / "ingest.json").exists()

    def test_a_missing_object_is_named(self, cases):
        assert "missing.csv does not exist" in cases["missing"]["error"]

    def test_another_day_s_object_is_refused(self, cases):
        assert "842 of 842 rows" in cases["another_day"]["error"]
        assert "mostly: wrong_day 842;" in cases["another_day"]["error"]

    def test_a_failing_step_says_why_in_one_sentence(self, cases, folder, spark_submit):
        done = spark_submit(
            str(JOBS / "flights_ingest.py"),
            *("--day", DAY, "--input", (folder / "wrong_header.csv").as_uri()),
            *("--output", f"{folder.as_uri()}/out/step"),
        )
        assert done.returncode == 1
        said = [line for line in done.stderr.splitlines() if line.startswith("flights_ingest: ")]
        assert len(said) == 1
        assert "missing dep_delay" in said[0]
        assert done.stdout.strip() == said[0]
        assert "Traceback" not in done.stderr


@pytest.mark.spark
class TestReport:
    def test_the_real_day_is_summed_up(self, steps):
        summary = json.loads((steps / "report.json").read_text())
        counts = {name: value for name, value in summary.items() if isinstance(value, int)}
        assert counts == {
            "rows_flights": 842,
            "rows_rejected": 0,
            "rows_delays": 265,
            "cancelled": 4,
            "departed": 838,
            "arrived": 831,
        }
        assert summary["day"] == DAY
        assert summary["flights"] == (steps / "flights").as_uri()

    def test_the_day_s_figures_are_those_of_the_source(self, steps, real_day):
        summary = json.loads((steps / "report.json").read_text())
        lines = [line.split(",") for line in real_day.read_text().splitlines()[1:]]
        delays = sorted(int(fields[8]) for fields in lines if fields[8] != "NA")
        assert summary["arr_delay_mean"] == pytest.approx(sum(delays) / len(delays))
        assert summary["arr_late_share"] == pytest.approx(
            sum(delay > 15 for delay in delays) / len(delays)
        )
        position = 0.9 * (len(delays) - 1)
        below = delays[int(position)]
        interpolated = below + (delays[int(position) + 1] - below) * (position % 1)
        assert summary["arr_delay_p90"] == pytest.approx(interpolated)

    def test_each_route_of_a_carrier_is_one_row(self, cases, real_day):
        delays = cases["real"]["delays"]
        lines = [line.split(",") for line in real_day.read_text().splitlines()[1:]]
        routes = {(fields[9], fields[12], fields[13]) for fields in lines}
        assert {(row["carrier"], row["origin"], row["dest"]) for row in delays} == routes
        assert len(delays) == len(routes)
        assert sum(row["flights"] for row in delays) == 842

    def test_a_route_s_figures_leave_out_what_is_not_known(self, cases):
        (route,) = cases["report_of_mixed"]["delays"]
        # Departures 2, 2, 2 and 862 minutes late, arrivals 11, 11 and 1156.
        assert route == {
            "carrier": "UA",
            "origin": "EWR",
            "dest": "IAH",
            "flights": 5,
            "cancelled": 1,
            "departed": 4,
            "arrived": 3,
            "dep_delay_mean": 217.0,
            "dep_delay_p90": pytest.approx(604.0),
            "arr_delay_mean": pytest.approx(1178 / 3),
            "arr_delay_p90": pytest.approx(927.0),
            "dep_late_share": 0.25,
            "arr_late_share": pytest.approx(1 / 3),
        }
        assert cases["report_of_mixed"]["summary"]["rows_rejected"] == len(BAD_LINES)

    def test_the_glue_table_has_the_columns_that_are_stored(self, cases):
        table = template("storage")["Resources"]["FlightDelaysTable"]["Properties"]["TableInput"]
        declared = {
            column["Name"]: column["Type"] for column in table["StorageDescriptor"]["Columns"]
        }
        assert declared == cases["real"]["delays_types"]

    def test_another_day_s_flights_are_refused(self, cases):
        error = cases["report_of_another_day"]["error"]
        assert error.startswith("842 of 842 flights in ")
        assert "are not of 2013-01-02" in error

    def test_a_missing_dataset_is_named(self, cases):
        assert "out/nothing/flights cannot be read" in cases["report_of_nothing"]["error"]


class TestShippedAlone:
    @pytest.mark.parametrize("job", sorted(JOBS.glob("*.py")), ids=lambda path: path.name)
    def test_a_job_imports_only_pyspark_and_the_standard_library(self, job):
        imported = set()
        for node in ast.walk(ast.parse(job.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
            if isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
        imported -= {"__future__", "collections", "typing"}
        assert imported <= {"argparse", "csv", "datetime", "json", "pyspark", "sys", "time"}

    @pytest.mark.parametrize("job", sorted(JOBS.glob("*.py")), ids=lambda path: path.name)
    def test_a_job_can_be_read_by_the_python_of_emr_7(self, job):
        ast.parse(job.read_text(), feature_version=(3, 9))


def counts(rows_in: int, rows_out: int, rows_rejected: int) -> dict[str, object]:
    rows = {"rows_in": rows_in, "rows_out": rows_out, "rows_rejected": rows_rejected}
    return {"input": "s3://data/raw/flights/2013-01-01.csv", **rows}


def flight(cases, number: int) -> dict[str, object]:
    (found,) = [row for row in cases["mixed"]["flights"] if row["flight"] == number]
    return found


def template(name: str) -> dict:
    class Loader(yaml.SafeLoader):
        """YAML with CloudFormation's short forms (!Ref ...), whose values do not matter here."""

    Loader.add_multi_constructor("!", lambda loader, suffix, node: suffix)
    return yaml.load((ROOT / "include" / "infra" / f"{name}.yaml").read_text(), Loader)
