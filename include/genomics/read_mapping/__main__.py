"""The commands: `python -m read_mapping COMMAND s3://bucket/key`."""

from __future__ import annotations

import sys
from functools import partial

from read_mapping import index_reference, map_sample, merge_coverage
from read_mapping.job import Job

COMMANDS = {
    "map-sample": map_sample.run,
    "merge-coverage": merge_coverage.run,
    "index-reference": index_reference.run,
}


def main() -> int:
    """Run the command that the command line names; return its exit code."""
    match sys.argv[1:]:
        case [command, uri] if command in COMMANDS:
            return Job(command).run(partial(COMMANDS[command], uri))
    commands = "|".join(COMMANDS)
    print(f"usage: python -m read_mapping {commands} s3://bucket/key", file=sys.stderr)
    return 64


if __name__ == "__main__":
    sys.exit(main())
