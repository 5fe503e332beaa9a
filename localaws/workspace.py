"""Folders and environment of the commands that steps and jobs run.

Everything lies below one root that is removed when the server ends. A command gets an environment
of its own making: nothing of the server's but the search path and the language.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from localaws.settings import ACCESS_KEY, REGION, ROOT, SECRET_KEY, Settings

#: Commands that would touch this machine and not the cluster that a script believes to be on.
REFUSED = ("sudo", "shutdown", "poweroff", "reboot", "halt")
_INHERITED = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "USER", "LOGNAME")


class Workspace:
    """The working folders of one server."""

    def __init__(self, settings: Settings, endpoint_url: str) -> None:
        self.settings = settings
        self.endpoint_url = endpoint_url
        parent = settings.data / "work" if settings.data else None
        if parent:
            # a server that was killed left its folders here
            shutil.rmtree(parent, ignore_errors=True)
            parent.mkdir(parents=True)
        self.root = Path(tempfile.mkdtemp(prefix="localaws-", dir=parent))
        self.commands = self.root / "bin"
        self._write_commands()

    def folder(self, *parts: str) -> Path:
        """Make a new empty folder."""
        folder = self.root.joinpath(*parts)
        folder.mkdir(parents=True)
        return folder

    def remove(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.root, ignore_errors=True)

    def environment(self, home: Path, scratch: Path) -> dict[str, str]:
        """Return the environment of a command with a folder and a scratch folder of its own."""
        spark_bin = self.settings.spark_env / "bin"
        path = [str(self.commands), str(spark_bin), os.environ.get("PATH", os.defpath)]
        return {
            **{name: os.environ[name] for name in _INHERITED if name in os.environ},
            "PATH": os.pathsep.join(path),
            "HOME": str(home),
            "TMPDIR": str(scratch),
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_EC2_METADATA_DISABLED": "true",
            "PYTHONUNBUFFERED": "1",
        }

    def _write_commands(self) -> None:
        self.commands.mkdir()
        for name in REFUSED:
            self._write(
                name,
                f"echo \"localaws: {name} is refused: this is not a cluster's node. Not run: "
                f'{name} $*" >&2\nexit 1',
            )
        python = shlex.quote(sys.executable)
        # S3 is copied by this server's own Python, which has boto3
        s3_dist_cp = f"PYTHONPATH={shlex.quote(str(ROOT))} exec {python} -m localaws.s3_dist_cp"
        self._write("s3-dist-cp", f'{s3_dist_cp} "$@"')
        spark_submit = shlex.quote(str(Path(__file__).with_name("spark_submit.py")))
        self._write("spark-submit", f'exec {python} -I -S {spark_submit} "$@"')

    def _write(self, name: str, script: str) -> None:
        path = self.commands / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
