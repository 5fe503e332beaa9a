"""The demo's genomes: the same each time, mixed as they should be, and seeded without harm."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from scripts import seed_genomes
from scripts.seed_genomes import Genome, reverse_complement
from scripts.seeding import SeedError


def genome(letters: bytes, *lengths: int) -> Genome:
    draw = random.Random(0).random
    text = b"".join(
        b">contig%d\n%s\n"
        % (number, bytes(letters[int(draw() * len(letters))] for _ in range(length)))
        for number, length in enumerate(lengths)
    )
    return Genome.of(text)


def bases_of(read: bytes) -> bytes:
    return read.split(b"\n")[1]


@pytest.fixture
def assemblies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small inventions in place of the real genomes, known by their SHA-256."""
    folder = tmp_path / "genomes"
    (folder / "assemblies").mkdir(parents=True)
    for known in ("DRAFTS", "STRAINS"):
        invented = {}
        for species, each in getattr(seed_genomes, known).items():
            draw = random.Random(species).random
            bases = bytes(b"ACGT"[int(draw() * 4)] for _ in range(3000))
            text = b">long\n%s\n>short\n%s\n" % (bases[:2001], bases[2001:])
            path = folder / "assemblies" / Path(each.member).name.replace(".xz", ".gz")
            path.write_bytes(gzip.compress(text))
            member = each.member.replace(".xz", ".gz")
            digest = hashlib.sha256(text).hexdigest()
            invented[species] = seed_genomes.Assembly(member, digest)
        monkeypatch.setattr(seed_genomes, known, invented)
    return folder


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        s3, dynamodb = boto3.client("s3"), boto3.client("dynamodb")
        s3.create_bucket(Bucket="data")
        dynamodb.create_table(
            TableName="reads",
            KeySchema=[{"AttributeName": "sample", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "sample", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        yield s3, dynamodb


def made(folder: Path) -> Path:
    seed_genomes.make(folder, pairs=20, tools=None)
    for name in seed_genomes.INDEX:
        (folder / name).write_bytes(b"index")
    return folder


def test_what_is_made_of_the_real_genomes_is_what_the_script_knows():
    folder = seed_genomes.CACHE
    names = [name for name in seed_genomes.MADE if name.endswith(".gz")]

    texts = {name: gzip.decompress((folder / name).read_bytes()) for name in names}
    digests = {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
    reference = (folder / seed_genomes.REFERENCE).read_bytes()

    assert digests | {seed_genomes.REFERENCE: hashlib.sha256(reference).hexdigest()} == (
        seed_genomes.MADE
    )
    assert reference.count(b">") == 296
    assert all((folder / name).stat().st_size for name in seed_genomes.INDEX)


def test_the_same_is_made_each_time_and_only_once(assemblies, capsys):
    first = {path.name: path.read_bytes() for path in made(assemblies).glob("*.*z")}
    (assemblies / ".recipe").unlink()
    second = {path.name: path.read_bytes() for path in made(assemblies).glob("*.*z")}
    capsys.readouterr()
    made(assemblies)

    assert len(first) == 2 * len(seed_genomes.MIXTURES)
    assert first == second
    assert capsys.readouterr().out == ""


def test_the_reference_holds_the_long_contigs_named_by_their_species(assemblies):
    reference = (made(assemblies) / "derep_all.fa").read_bytes()

    names = [name for name, _ in seed_genomes.contigs(reference)]

    assert names == [f"{species}~long" for species in seed_genomes.DRAFTS]


def test_a_genome_that_is_not_the_known_one_is_refused(assemblies):
    path = next((assemblies / "assemblies").glob("G27*"))
    path.write_bytes(gzip.compress(b">other\nACGT\n"))

    with pytest.raises(SeedError, match=r"G27\.fasta\.gz of Debian is not the genome"):
        seed_genomes.make(assemblies, pairs=1, tools=None)


def test_reads_that_come_out_otherwise_than_known_are_refused(assemblies, monkeypatch):
    monkeypatch.setattr(seed_genomes, "PAIRS", 10)

    with pytest.raises(SeedError, match=r"otherwise than this file knows: derep_all\.fa, S1_1"):
        seed_genomes.make(assemblies, pairs=10, tools=None)
    assert not (assemblies / "derep_all.fa").exists()


def test_missing_tools_are_named_with_what_helps(assemblies, tmp_path):
    with pytest.raises(SeedError, match="make setup-genomics"):
        seed_genomes.make(assemblies, pairs=1, tools=tmp_path)


def test_a_mixture_has_the_shares_that_were_asked_for():
    # Each strand of the one has A and T only, of the other C and G only; but for the errors.
    genomes = [genome(b"AT", 5000, 1000), genome(b"CG", 3000)]

    drawn = list(seed_genomes.draw_pairs("x", genomes, (0.7, 0.3), 2000))

    bases = [bases_of(first) + bases_of(second) for first, second in drawn]
    of_one = [read for read in bases if sum(map(read.count, b"AT")) > 150]
    errors = sum(read.count(base) for read in of_one for base in b"CG")
    assert 0.65 < len(of_one) / len(drawn) < 0.75
    # Two in three substitutions of A or T are C or G.
    assert 0.004 < errors * 1.5 / (300 * len(of_one)) < 0.006


def test_mates_are_the_two_ends_of_a_fragment_of_either_strand(monkeypatch):
    monkeypatch.setattr(seed_genomes, "WITH_ERROR", 0.0)
    source = genome(b"ACGT", 4000)
    strands = {source.sequences[0], reverse_complement(source.sequences[0])}
    hit = set()

    for first, second in seed_genomes.draw_pairs("x", [source], (1.0,), 40):
        (strand,) = [each for each in strands if bases_of(first) in each]
        start = strand.index(bases_of(first))
        end = strand.index(reverse_complement(bases_of(second))) + seed_genomes.READ_LENGTH
        assert 200 <= end - start < 500
        assert first.split(b"/")[0] == second.split(b"/")[0]
        hit.add(strand)

    assert hit == strands


def test_upload_puts_everything_where_the_jobs_expect_it(assemblies, aws):
    s3, dynamodb = aws

    new = seed_genomes.upload(s3, dynamodb, "data", "reads", made(assemblies))

    keys = {each["Key"] for each in s3.list_objects_v2(Bucket="data")["Contents"]}
    assert new == ["S1", "S2", "S3", "S4"]
    assert {f"ref_data/derep_all.fa{end}" for end in ("", ".bwt", ".fai")} <= keys
    assert len([key for key in keys if key.startswith("source/")]) == 8
    assert dynamodb.get_item(TableName="reads", Key={"sample": {"S": "S3"}})["Item"] == {
        "sample": {"S": "S3"},
        "r1": {"S": "source/S3_1.fastq.gz"},
        "r2": {"S": "source/S3_2.fastq.gz"},
        "status": {"N": "0"},
    }


def test_seeding_again_leaves_a_finished_sample_alone(assemblies, aws):
    s3, dynamodb = aws
    folder = made(assemblies)
    seed_genomes.upload(s3, dynamodb, "data", "reads", folder)
    done = {"sample": {"S": "S1"}, "status": {"N": "4"}}
    dynamodb.put_item(TableName="reads", Item=done)
    dynamodb.delete_item(TableName="reads", Key={"sample": {"S": "S2"}})

    new = seed_genomes.upload(s3, dynamodb, "data", "reads", folder)

    assert new == ["S2"]
    assert dynamodb.get_item(TableName="reads", Key={"sample": {"S": "S1"}})["Item"] == done


def test_a_missing_table_is_named(assemblies, aws):
    s3, dynamodb = aws

    with pytest.raises(SeedError, match="S1 cannot be written to table nowhere"):
        seed_genomes.upload(s3, dynamodb, "data", "nowhere", made(assemblies))
