"""Measure a BAM by pycoverm and by the rules: `mapping_engines.py BAM FOLDER PARAMETERS...`.

Run by the mapping jobs' own Python, which has no pytest; prints a JSON list of what came of each.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from read_mapping import coverage
from read_mapping.parameters import parse_parameters


def main():
    bam, folder, *asked = sys.argv[1:]
    results = []
    for text in asked:
        parameters, _ = parse_parameters(json.loads(text))
        engines = {
            "pycoverm": coverage.by_pycoverm(Path(bam), parameters, Path(folder), 1),
            "rules": coverage.by_depth(Path(bam), parameters),
        }
        results.append({name: asdict(found) for name, found in engines.items()})
    print(json.dumps(results))


if __name__ == "__main__":
    main()
