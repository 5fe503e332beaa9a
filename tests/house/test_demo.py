"""What the demo prints of the samples, from manifests and tables as the jobs write them."""

from __future__ import annotations

import json
import os

import boto3
import pytest
from moto import mock_aws

from scripts import demo_genomes, seed_genomes
from scripts.demo_genomes import BUCKET, TABLE

TIDY = """\
sample\tcontig\tlength\tmeasurable\tmean\ttrimmed_mean\tcovered_fraction\tcount
S1\tHelicobacter_pylori~1\t1000\t1\t2\t2\t0.9\t7
S1\tHelicobacter_pylori~2\t3000\t1\t4\t4\t0.9\t80
S1\tStaphylococcus_aureus~1\t5000\t1\t0.5\t0.5\t0.3\t17
S1\tStaphylococcus_aureus~2\t120\t0\t\t\t0.3\t1
S1\tEscherichia_coli~1\t2000\t1\t0\t0\t0\t0
"""
BELOW = f"s3://{BUCKET}/results/{TABLE}/graviton/S1"
MANIFEST = {
    "qc": {"reads": 80000, "mapped_share": 0.9175, "kept_share": 0.64724},
    "outputs": {"coverage_tidy": {"uri": f"{BELOW}/S1.coverage.tidy.tsv"}},
    "stages": [
        {"name": "mapping", "seconds": 12.34, "skipped": False},
        {"name": "coverage", "seconds": 2.0, "skipped": False},
    ],
    "peak_rss_mib": 311.6,
}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        s3, dynamodb = boto3.client("s3"), boto3.client("dynamodb")
        s3.create_bucket(Bucket=BUCKET)
        for name, text in {
            "S1.coverage.tidy.tsv": TIDY,
            "manifest.json": json.dumps(MANIFEST),
            "report.html": "<p>mapped</p>",
        }.items():
            s3.put_object(Bucket=BUCKET, Key=f"results/{TABLE}/graviton/S1/{name}", Body=text)
        dynamodb.create_table(
            TableName=TABLE,
            KeySchema=[{"AttributeName": "sample", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "sample", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        for sample, status in {"S1": "4", "S2": "-1"}.items():
            manifest = {"outputs": {"S": f"{BELOW}/manifest.json"}} if status == "4" else {}
            item = {"sample": {"S": sample}, "status": {"N": status}, **manifest}
            dynamodb.put_item(TableName=TABLE, Item=item)
        yield s3, dynamodb


def test_a_species_depth_is_that_of_its_contigs_by_their_lengths():
    assert demo_genomes.mean_depths(TIDY) == {
        "Helicobacter_pylori": 3.5,
        "Staphylococcus_aureus": 0.5,
        "Escherichia_coli": 0.0,
    }


def test_samples_that_are_done_are_printed_with_all_that_was_found(aws, capsys):
    s3, dynamodb = aws

    done = {
        sample: json.loads(demo_genomes.read(s3, uri))
        for sample, uri in demo_genomes.outputs(dynamodb)
    }
    demo_genomes.print_samples(s3, done)
    demo_genomes.print_stages(done)

    assert capsys.readouterr().out.splitlines() == [
        "",
        "samples: reads, and mean depth of each species",
        "  sample  reads   mapped  kept   Helicobacter pylori  Staphylococcus aureus"
        "  Escherichia coli",
        "  S1      80,000  91.8%   64.7%  3.50                 0.50                   0.00",
        "",
        "samples: stages",
        "  sample  mapping  coverage  peak memory",
        "  S1      12.3 s   2.0 s     312 MiB",
    ]


def test_a_sample_that_lost_reads_or_is_not_done_is_a_problem():
    done = {name: {"qc": {"reads": 80000}} for name in ("S1", "S2", "S3")}
    done["S2"]["qc"]["reads"] = 79998

    assert demo_genomes.check_reads(done) == [
        "S2: 79998 of 80000 reads went through",
        "S4: none of 80000 reads went through",
    ]


def test_the_report_is_copied_and_a_missing_one_is_a_problem(aws, tmp_path, capsys):
    s3, _ = aws

    assert demo_genomes.print_reports(s3, tmp_path / "reports") == []
    s3.delete_object(Bucket=BUCKET, Key=f"results/{TABLE}/graviton/S1/report.html")

    assert demo_genomes.print_reports(s3, tmp_path) == ["genomics_mapping wrote no report"]
    assert (tmp_path / "reports" / "report.html").read_text() == "<p>mapped</p>"
    assert f"report: {tmp_path / 'reports' / 'report.html'}" in capsys.readouterr().out


def test_the_demo_and_the_seed_are_about_the_same_species():
    assert set(seed_genomes.DRAFTS) < set(seed_genomes.STRAINS)
    assert all(abs(sum(shares) - 1) < 1e-9 for shares in seed_genomes.MIXTURES.values())
