"""Print the trimmed mean of each contig by pycoverm: `BAM END_EXCLUSION TRIM_LOWER TRIM_UPPER`.

A script of its own, run as a process: pycoverm is licensed under GPL-3 and optional. Both trims
at 0 give the plain mean.
"""

from __future__ import annotations

import sys

import pycoverm

# 0 would switch CoverM to pairs, which drops every read that is not of a proper pair.
ANY_IDENTITY = 1e-6


def main() -> None:
    """Print a line a contig: its name, and the figure in hexadecimal, so that no digit is lost."""
    bam, end_exclusion, lower, upper = sys.argv[1:]
    names, matrix = pycoverm.get_coverages_from_bam(
        [bam],
        contig_end_exclusion=int(end_exclusion),
        min_identity=ANY_IDENTITY,
        trim_lower=float(lower),
        trim_upper=float(upper),
    )
    for name, value in zip(names, matrix[:, 0], strict=True):
        print(f"{name}\t{float(value).hex()}")


if __name__ == "__main__":
    main()
