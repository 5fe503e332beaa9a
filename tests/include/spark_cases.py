"""Run the ingest and the report on many inputs in one Spark, and say what came of each.

Run by the Spark environment's Python, which has no pytest: `spark_cases.py CASES RESULTS`, two JSON
files with a list each. (spark-submit hands nothing on to a script's stdin.)
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from datetime import date
from pathlib import Path

JOBS = Path(__file__).resolve().parents[2] / "include" / "spark"


def load(name):
    spec = importlib.util.spec_from_file_location(name, JOBS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ingest_job, report_job = load("flights_ingest"), load("flights_report")


def ingest_case(spark, case):
    day, output = date.fromisoformat(case["day"]), case["output"]
    try:
        result = {
            "summary": ingest_job.ingest(spark, day, case["input"], output, case["max_share"])
        }
    except ingest_job.IngestError as error:
        result = {"error": str(error)}
    for dataset in ("rejected", "flights"):
        with contextlib.suppress(Exception):
            rows = spark.read.parquet(f"{output}/{dataset}")
            result[dataset] = [json.loads(row) for row in rows.toJSON().collect()]
            result[f"{dataset}_types"] = dict(rows.dtypes)
    return result


def report_case(spark, case):
    day, output = date.fromisoformat(case["day"]), case["output"]
    try:
        result = {
            "summary": report_job.report(spark, day, case["flights"], case["rejected"], output)
        }
    except report_job.ReportError as error:
        return {"error": str(error)}
    delays = spark.read.parquet(f"{output}/delays")
    result["delays"] = [json.loads(row) for row in delays.toJSON().collect()]
    result["delays_types"] = dict(delays.dtypes)
    return result


def sum_case(_spark, case):
    try:
        ingest_job.check_sum(case["summary"])
    except ingest_job.IngestError as error:
        return {"error": str(error)}
    return {}


def main():
    cases = json.loads(Path(sys.argv[1]).read_text())
    spark = ingest_job.start_session("cases")
    kinds = {"ingest": ingest_case, "report": report_case, "sum": sum_case}
    results = [kinds[case["job"]](spark, case) for case in cases]
    Path(sys.argv[2]).write_text(json.dumps(results))
    spark.stop()


if __name__ == "__main__":
    main()
