"""`merge-coverage` whole: real samples' tables to one matrix, and MultiQC's page."""

from __future__ import annotations

import http.server
import json
import threading
from pathlib import Path

import pytest

from tests.include.mapping_cases import BUCKET, PACKAGE, Mapping, python, run_tool, simulate

OUTPUT = f"s3://{BUCKET}/results/reads/x86/matrix/1"
METHODS = ["mean", "trimmed_mean", "covered_fraction", "count"]
CONTIGS = {"a": (1000, "true"), "b": (2000, "true"), "A": (3000, "true"), "short": (99, "false")}
# In batches of two, as many samples are merged in batches of hundreds.
IN_BATCHES = (
    "import sys; from read_mapping import merge_coverage;"
    "from read_mapping.job import main; merge_coverage.MOST_OPEN = 2;"
    "merge_coverage._report = lambda *_: __import__('pathlib').Path('report').resolve();"
    "sys.exit(main('merge-coverage', merge_coverage.run))"
)


def sample(mapping: Mapping, name: str, contigs=CONTIGS, **manifest) -> dict[str, str]:
    """Put a sample's tidy table and manifest into the bucket."""
    place = f"s3://{BUCKET}/results/reads/x86/{name}"
    head = [
        "sample",
        "contig",
        "length",
        "measurable",
        "mean",
        "trimmed_mean",
        "covered_fraction",
        "count",
    ]
    rows = [head]
    for number, (contig, (length, measurable)) in enumerate(contigs.items()):
        means = [f"{number}.{name[1:]}", f"{number}.5"] if measurable == "true" else ["", ""]
        rows.append([name, contig, str(length), measurable, *means, "0.25", str(100 + number)])
    table = "".join("\t".join(row) + "\n" for row in rows)
    uri = mapping.put(f"{place}/{name}.coverage.tidy.tsv", table.encode())
    content = {
        "sample": name,
        "parameters": {"min_identity": "0.95", "methods": METHODS},
        "inputs": {"reference": {"etag": '"1"'}},
        "outputs": {"coverage_tidy": {"uri": uri}},
    }
    done = mapping.put(f"{place}/manifest.json", json.dumps(content | manifest).encode())
    return {"sample": name, "done_uri": done}


def request(samples, **changes):
    content = {
        "samples": samples,
        "failed": {},
        "output": OUTPUT,
        "done_uri": f"{OUTPUT}/manifest.json",
        "methods": METHODS,
    }
    return content | changes


def rows_of(mapping: Mapping, name: str) -> list[list[str]]:
    text = mapping.get(f"{OUTPUT}/{name}").decode()
    return [line.split("\t") for line in text.splitlines()]


@pytest.fixture
def merged_in_batches(mapping):
    """Five samples, merged two at a time."""
    samples = [sample(mapping, f"S{number}") for number in (3, 1, 5, 2, 4)]
    (mapping.scratch / "report").write_text("no report")
    uri = mapping.put(f"s3://{BUCKET}/manifests/m.jsonl", json.dumps(request(samples)).encode())
    environ = {**mapping.aws.environment(), "PYTHONPATH": str(PACKAGE)}
    run_tool(python(), "-c", IN_BATCHES, uri, cwd=mapping.scratch, **environ)
    return mapping


def test_a_matrix_has_a_row_for_each_contig_and_a_column_for_each_sample(merged_in_batches):
    means = rows_of(merged_in_batches, "coverage.mean.tsv")

    assert means == [
        ["contig", "S1", "S2", "S3", "S4", "S5"],
        ["a", "0.1", "0.2", "0.3", "0.4", "0.5"],
        ["b", "1.1", "1.2", "1.3", "1.4", "1.5"],
        ["A", "2.1", "2.2", "2.3", "2.4", "2.5"],
        ["short", "", "", "", "", ""],
    ]
    assert rows_of(merged_in_batches, "coverage.count.tsv")[4] == ["short", *["103"] * 5]


def test_the_long_table_is_sorted_and_has_nulls_where_nothing_could_be_measured(
    merged_in_batches, tmp_path
):
    (tmp_path / "c.parquet").write_bytes(merged_in_batches.get(f"{OUTPUT}/coverage.parquet"))
    code = "import sys, json, pyarrow.parquet as pq; t = pq.read_table(sys.argv[1]);"
    code += "print(json.dumps([t.to_pylist(), [str(f.type) for f in t.schema]]))"

    rows, types = json.loads(run_tool(python(), "-c", code, tmp_path / "c.parquet"))

    assert types == ["string", "string", "int64", "bool", "float", "float", "float", "int64"]
    keys = [(row["sample"], row["contig"]) for row in rows]
    assert keys == sorted(keys)
    assert len(rows) == 20
    assert rows[3] == {
        "sample": "S1",
        "contig": "short",
        "length": 99,
        "measurable": False,
        "mean": None,
        "trimmed_mean": None,
        "covered_fraction": 0.25,
        "count": 103,
    }


class NoProxy(http.server.BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012 - one server

    def do_CONNECT(self) -> None:
        self.asked.append(self.path)
        self.send_error(403)

    do_GET = do_POST = do_CONNECT


def test_mapped_samples_become_a_matrix_and_a_page_and_nobody_is_called(mapping):
    items = [mapping.item(f"S{n}", simulate(pairs=200, seed=n).gzips) for n in (1, 2)]
    for item in items:
        assert mapping.map(item).code == 0
    samples = [{name: item[name] for name in ("sample", "done_uri")} for item in items]
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), NoProxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{proxy.server_address[1]}"

    done = mapping.run(
        "merge-coverage",
        request(samples, failed={"S9": "r2 is cut"}, methods=["mean"]),
        **{"HTTPS_PROXY": address, "HTTP_PROXY": address, "NO_PROXY": "127.0.0.1"},
    )

    proxy.shutdown()
    assert done.code == 0, done.stderr
    assert done.last_line == "merge-coverage: 2 samples x 4 contigs"
    assert NoProxy.asked == []
    found = json.loads(mapping.get(f"{OUTPUT}/manifest.json"))
    assert found["samples"] == ["S1", "S2"]
    assert (found["failed"], found["partial"]) == ({"S9": "r2 is cut"}, True)
    assert found["contigs"] == 4
    names = {Path(output["uri"]).name for output in found["outputs"].values()}
    assert names == {"coverage.parquet", "coverage.mean.tsv", "multiqc_report.html"}
    for output in found["outputs"].values():
        assert len(mapping.get(output["uri"])) == output["size"]
    page = mapping.get(f"{OUTPUT}/multiqc_report.html").decode()
    assert all(name in page for name in ("S1.emitted", "S1.kept", "S2.emitted", "S2.kept"))
    table = mapping.get(items[1]["output"] + "/S2.coverage.tidy.tsv").decode().splitlines()
    column = [row[2] for row in rows_of(mapping, "coverage.mean.tsv")]
    assert column == ["S2", *(line.split("\t")[4] for line in table[1:])]


def test_samples_of_different_references_are_not_put_into_one_table(mapping):
    longer = {**CONTIGS, "more": (10, "false")}
    for other in (longer, {**CONTIGS, "b": (2001, "true")}):
        samples = [sample(mapping, "S1"), sample(mapping, "S2", other)]

        done = mapping.run("merge-coverage", request(samples))

        assert done.code == 65, done.stderr
        assert "S2 and S1 have other contigs" in done.last_line
    assert mapping.keys("results/reads/x86/matrix") == []


def test_what_is_missing_and_what_is_wrong_is_listed(mapping):
    samples = [sample(mapping, "S1"), {"sample": "S2", "done_uri": f"s3://{BUCKET}/none.json"}]

    missing = mapping.run("merge-coverage", request(samples))
    wrong = mapping.run("merge-coverage", request([], output="x", methods=["median"]))

    assert (missing.code, missing.last_line) == (66, "merge-coverage: without a manifest: S2")
    assert wrong.code == 65
    assert [each in wrong.last_line for each in ("none to merge", "'x'", "median")] == [True] * 3
