"""CoverM's filter of single reads, as an awk program on SAM text.

The rule of `coverm filter` without a pair option: unmapped and secondary records are dropped; of
the others each is judged alone, mates may part. With

    aligned  = sum of the CIGAR's M, I, D, = and X
    identity = 1 - NM / aligned
    share    = aligned / length of SEQ, hard-clipped bases not counted

it is kept if identity and share reach their thresholds. All is done in whole numbers: for the
threshold p / q, `identity >= p / q` is `NM * q <= aligned * (q - p)`.
"""

from __future__ import annotations

from fractions import Fraction

from read_mapping.parameters import Parameters

# bwa's @PG line tells how many threads ran and where the files lay: it is replaced, so that the
# same reads give the same bytes.
PROGRAM = r"""
BEGIN { FS = "\t" }
/^@/ {
    if ($1 != "@PG") { print; next }
    sub(/\tCL:.*/, "")
    print $0 "\tCL:" ENVIRON["BWA_COMMAND"]
    print "@PG\tID:read_mapping\tPN:read_mapping\tPP:bwa\tDS:" ENVIRON["FILTER"]
    next
}
$2 % 8 >= 4 || $2 % 512 >= 256 || (no_supplementary && $2 >= 2048) { next }
{
    aligned = $6 + 0
    if ($6 != aligned "M") {
        cigar = $6
        gsub(/[0-9]+[SHNP]/, "", cigar)
        n = split(cigar, lengths, /[MID=X]/)
        aligned = 0
        for (i = 1; i < n; i++) aligned += lengths[i]
    }
    if (aligned * share_q < length($10) * share_p) next
    for (i = 12; i <= NF && substr($i, 1, 5) != "NM:i:"; i++);
    if (i > NF) {
        print "read " $1 " has no NM tag" > "/dev/stderr"
        exit 1
    }
    if (substr($i, 6) * identity_q <= aligned * (identity_q - identity_p)) print
}
"""


def command(parameters: Parameters) -> list[str]:
    """Give the command that filters SAM on stdin."""
    identity, aligned = Fraction(parameters.min_identity), Fraction(parameters.min_aligned)
    variables = {
        "identity_p": identity.numerator,
        "identity_q": identity.denominator,
        "share_p": aligned.numerator,
        "share_q": aligned.denominator,
        "no_supplementary": int(parameters.exclude_supplementary),
    }
    settings = [word for name in variables for word in ("-v", f"{name}={variables[name]}")]
    return ["mawk", *settings, PROGRAM]


def environment(parameters: Parameters, bwa_command: str) -> dict[str, str]:
    """Give what the filter writes into the header: not by -v, where awk reads escapes."""
    described = " ".join(f"{name}={value}" for name, value in parameters.of_filter().items())
    return {"BWA_COMMAND": bwa_command, "FILTER": described, "LC_ALL": "C"}
