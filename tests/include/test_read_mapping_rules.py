"""The filter and the depth against CoverM's rules, written down a second time and plainly."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.include.mapping_cases import PACKAGE, load, path, python, run_tool

coverage, depth, exceptions, parameters, sam_filter = (
    load(name) for name in ("coverage", "depth", "exceptions", "parameters", "sam_filter")
)
ENGINES = Path(__file__).with_name("mapping_engines.py")
LENGTHS = {"a": 3000, "b": 400, "none": 500, "short": 150}
OPERATION = re.compile(r"(\d+)([MIDNSHP=X])")


def asked(**given):
    found, problems = parameters.parse_parameters(given)
    assert problems == []
    return found


def keeps(record, thresholds):
    """CoverM's rule for one record, in fractions."""
    _, flag, _, _, _, cigar, _, _, _, sequence, *_, nm = record.split("\t")
    if int(flag) & 0x104 or (thresholds.exclude_supplementary and int(flag) & 0x800):
        return False
    aligned = sum(int(size) for size, kind in OPERATION.findall(cigar) if kind in "MID=X")
    return 1 - Fraction(int(nm.split(":")[2]), aligned) >= Fraction(
        thresholds.min_identity
    ) and Fraction(aligned, len(sequence)) >= Fraction(thresholds.min_aligned)


def random_records(dice, count, sizes=(1, 90)):
    """SAM records of all kinds, many of them close to the cut-offs, sorted by position."""
    records = []
    for number in range(count):
        contig = dice.choice([name for name in LENGTHS if name != "none"])
        kinds = [dice.choice("MM=X"), *dice.choices("MIDNS=XP", k=dice.randrange(4))]
        parts = [(dice.randrange(*sizes), kind) for kind in kinds]
        if dice.random() < 0.3:
            parts = [(dice.randrange(1, 60), dice.choice("SH")), *parts]
        used = sum(size for size, kind in parts if kind in "MDN=X")
        if used > LENGTHS[contig]:
            continue
        start = dice.randrange(1, LENGTHS[contig] - used + 2)
        aligned = sum(size for size, kind in parts if kind in "MID=X")
        length = sum(size for size, kind in parts if kind in "MIS=X")
        flag = dice.choice([0, 0, 16, 99, 147, 0x4, 0x100, 0x800, 0x810, 0x410])
        nm = min(aligned, max(0, aligned // 20 + dice.randrange(-2, 3)))
        fields = [f"r{number}", flag, contig, start, 60, "".join(f"{s}{k}" for s, k in parts)]
        fields += ["*", 0, 0, "A" * length, "*", "MD:Z:0", "AS:i:9", f"NM:i:{nm}"]
        records.append((list(LENGTHS).index(contig), start, "\t".join(map(str, fields))))
    return [text for _, _, text in sorted(records, key=lambda record: record[:2])]


def header():
    lines = [f"@SQ\tSN:{name}\tLN:{length}" for name, length in LENGTHS.items()]
    return "\n".join([*lines, "@PG\tID:bwa\tPN:bwa\tVN:1\tCL:bwa mem -t 64 /tmp/x y\n"])


def filtered(records, thresholds):
    done = subprocess.run(
        sam_filter.command(thresholds),
        input=header() + "".join(f"{record}\n" for record in records),
        env={**os.environ, "PATH": path(), **sam_filter.environment(thresholds, "bwa mem")},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, [line for line in done.stdout.splitlines() if not line.startswith("@")]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"exclude_supplementary": True},
        {"min_identity": "0.9512345", "min_aligned": "33.3333"},
        {"min_identity": "100", "min_aligned": "0"},
        {"min_identity": "0.000001", "min_aligned": "0.9"},
    ],
    ids=str,
)
def test_the_filter_keeps_what_the_rule_keeps(given):
    thresholds = asked(**given)
    records = random_records(random.Random(3), 4000)

    done, kept = filtered(records, thresholds)

    assert done.returncode == 0
    assert kept == [record for record in records if keeps(record, thresholds)]
    assert 0 < len(kept) < len(records)


@pytest.mark.parametrize("kept", [True, False])
def test_exactly_the_cut_off_is_kept_and_one_more_is_not(kept):
    mismatches = {True: 5, False: 6}[kept]
    records = [f"r\t0\ta\t1\t60\t100M\t*\t0\t0\t{'A' * 100}\t*\tNM:i:{mismatches}"]

    _, found = filtered(records, asked())

    assert bool(found) is kept


def test_hard_clipped_bases_are_no_part_of_the_read():
    """bwa clips supplementary pieces hard: the piece alone is judged. With -Y it would be lost."""
    piece = "r\t2048\ta\t1\t60\t100{}50M\t*\t0\t0\t{}\t*\tNM:i:0"

    assert len(filtered([piece.format("H", "A" * 50)], asked())[1]) == 1
    assert len(filtered([piece.format("S", "A" * 150)], asked())[1]) == 0


def test_the_header_tells_the_thresholds_and_neither_threads_nor_paths():
    done, _ = filtered([], asked(min_identity="97"))

    assert done.stdout.splitlines()[-2:] == [
        "@PG\tID:bwa\tPN:bwa\tVN:1\tCL:bwa mem",
        "@PG\tID:read_mapping\tPN:read_mapping\tPP:bwa\tDS:min_identity=0.97 min_aligned=0.75"
        " exclude_supplementary=False",
    ]


def test_a_record_without_edit_distance_is_an_error_and_no_guess():
    done, _ = filtered([f"r\t0\ta\t1\t60\t100M\t*\t0\t0\t{'A' * 100}\t*\tAS:i:9"], asked())

    assert done.returncode == 1
    assert done.stderr == "read r has no NM tag\n"


@pytest.fixture(scope="module")
def records():
    return random_records(random.Random(11), 3000, sizes=(20, 90))


@pytest.fixture(scope="module")
def bam(tmp_path_factory, records):
    target = tmp_path_factory.mktemp("bam") / "S1.filtered.bam"
    sam = header() + "".join(f"{record}\n" for record in records)
    run_tool("samtools", "view", "-o", target, "-", stdin=sam)
    return target


def plain_depths(records):
    """Depth of each base, record by record and base by base, and the primary reads."""
    depths = {name: [0] * length for name, length in LENGTHS.items()}
    reads = dict.fromkeys(LENGTHS, 0)
    for record in records:
        _, flag, contig, start, _, cigar, *_ = record.split("\t")
        if int(flag) & 0x104:
            continue
        reads[contig] += not int(flag) & 0x800
        position = int(start) - 1
        for size, kind in OPERATION.findall(cigar):
            if kind in "M=X":
                for base in range(position, position + int(size)):
                    depths[contig][base] += 1
            position += int(size) if kind in "MDN=X" else 0
    return depths, reads


@pytest.mark.parametrize("block", [4 << 20, 1 << 12], ids=["one block", "many blocks"])
def test_depth_is_that_of_every_base(bam, records, block, monkeypatch):
    monkeypatch.setattr(depth, "BLOCK", block)
    depths, reads = plain_depths(records)

    found = list(depth.contigs(bam, 75))

    assert [(contig.name, contig.length) for contig in found] == list(LENGTHS.items())
    for contig in found:
        inner = depths[contig.name][75:-75]
        assert contig.reads == reads[contig.name]
        assert contig.covered == sum(each > 0 for each in depths[contig.name])
        assert contig.mean() == np.float32(sum(inner) / len(inner) if inner else 0)
        assert np.array_equal(contig.inner, np.bincount(inner, minlength=1))


@pytest.mark.parametrize(
    ("depths", "expected"),
    [
        # From CoverM itself: even depth comes out a little too high, by one rank.
        ([10] * 50, "10.25"),
        ([10] * 150, "10.083333"),
        ([10] * 4850, "10.002578"),
        ([1] * 10, "1.125"),
        ([0] * 91 + [1] * 9, "0"),
        ([], "0"),
    ],
)
def test_trimmed_mean_is_coverms_with_the_rank_that_it_adds(depths, expected):
    contig = depth.Contig("a", len(depths) + 150, 0, 0, np.bincount(depths, minlength=1))

    assert coverage.text(contig.trimmed_mean("0.1", "0.9")) == expected


def test_pycoverm_and_the_rules_give_the_same_figures(bam, tmp_path):
    given = [
        {},
        {"trim_min": "5", "trim_max": "95"},
        {"trim_min": "0", "trim_max": "100"},
        {"trim_min": "0.123", "trim_max": "0.457", "contig_end_exclusion": 0},
        {"contig_end_exclusion": 10, "methods": ["trimmed_mean", "length"]},
    ]

    said = run_tool(
        *(python(), ENGINES, bam, tmp_path, *map(json.dumps, given)),
        PYTHONPATH=str(PACKAGE),
    )

    for found in json.loads(said):
        one, two = found["pycoverm"], found["rules"]
        assert one.pop("engine").startswith("pycoverm 0.")
        assert two.pop("engine") == "read_mapping"
        assert one == two
        assert one["contigs"] == list(LENGTHS)


def test_a_bam_that_is_cut_or_not_sorted_is_refused(bam, records, tmp_path):
    cut = tmp_path / "cut.bam"
    cut.write_bytes(bam.read_bytes()[:-400])
    with pytest.raises(exceptions.InputDataError, match="cut"):
        list(depth.contigs(cut, 75))

    shuffled = tmp_path / "shuffled.bam"
    sam = header() + "".join(f"{record}\n" for record in reversed(records))
    run_tool("samtools", "view", "-o", shuffled, "-", stdin=sam)
    with pytest.raises(exceptions.InputDataError, match="not sorted"):
        list(depth.contigs(shuffled, 75))
