"""Coverage of contigs: by CoverM where it is there, by the same rules where it is not.

`coverm` on PATH measures everything in one pass. Without it pycoverm, which is CoverM's engine,
measures mean and trimmed mean where it is installed, and :mod:`read_mapping.depth` what is left.
The figures are the same to the last digit, printed as Rust prints a 32-bit float.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from read_mapping.depth import Contig, contigs
from read_mapping.exceptions import MappingError
from read_mapping.parameters import Parameters
from read_mapping.processes import Processes

# Heads of CoverM's columns.
TITLES = {
    "mean": "Mean",
    "trimmed_mean": "Trimmed Mean",
    "covered_fraction": "Covered Fraction",
    "count": "Read Count",
    "length": "Length",
}
OF_PYCOVERM = ("mean", "trimmed_mean")
TIDY = (
    *("sample", "contig", "length", "measurable"),
    *("mean", "trimmed_mean", "covered_fraction", "count"),
)


@dataclass(frozen=True)
class Coverage:
    """Figures of each contig as text, in the reference's order, and which engine gave them."""

    contigs: list[str]
    lengths: list[int]
    figures: dict[str, list[str]]
    engine: str


def measure(bam: Path, parameters: Parameters, folder: Path, threads: int) -> Coverage:
    """Measure a filtered BAM sorted by position."""
    if shutil.which("coverm"):
        return by_coverm(bam, parameters, folder, threads)
    if importlib.util.find_spec("pycoverm"):
        return by_pycoverm(bam, parameters, folder, threads)
    return by_depth(bam, parameters)


def by_coverm(bam: Path, parameters: Parameters, folder: Path, threads: int) -> Coverage:
    """Let the coverm command measure everything."""
    command = ["coverm", "contig", "--bam-files", str(bam), "--threads", str(threads)]
    command += ["--output-format", "dense", "--min-covered-fraction", "0"]
    command += ["--contig-end-exclusion", str(parameters.contig_end_exclusion)]
    if "trimmed_mean" in parameters.methods:
        # Everything is 100: 1 would mean 1 %.
        trim_max = "100" if parameters.trim_max == "1" else parameters.trim_max
        command += ["--trim-min", parameters.trim_min, "--trim-max", trim_max]
    # Always with the length, by which a contig is measurable or not.
    methods = [*dict.fromkeys([*parameters.methods, "length"])]
    text = _output(folder, "coverm", [*command, "--methods", *methods])
    head, *rows = [line.split("\t") for line in text.splitlines()]
    if [title.split(" ", 1)[-1] for title in head[1:]] != [TITLES[name] for name in methods]:
        raise MappingError(f"coverm printed the columns {head[1:]} where {methods} were asked for")
    figures = {name: [row[n] for row in rows] for n, name in enumerate(methods, 1)}
    lengths = [int(float(length)) for length in figures["length"]]
    version = _output(folder, "coverm-version", ["coverm", "--version"]).strip()
    return Coverage([row[0] for row in rows], lengths, figures, version)


def by_pycoverm(bam: Path, parameters: Parameters, folder: Path, threads: int) -> Coverage:
    """Let pycoverm measure mean and trimmed mean, and depth what else is asked for."""
    by_rules = [name for name in parameters.methods if name not in OF_PYCOVERM]
    rest = _by_rules(contigs(bam, parameters.contig_end_exclusion), parameters, by_rules)
    with_supplementary = folder / "with-supplementary.bam"
    # pycoverm leaves supplementary records out; the command of the same version counts them.
    plain = ["samtools", "view", "--remove-flags", "0x800", "--output-fmt", "bam,level=1"]
    plain += ["-@", str(threads - 1), "-o", str(with_supplementary), str(bam)]
    with Processes(folder) as processes:
        processes.start("samtools view", plain)
        processes.wait()
    trims = {"mean": (np.float32(0), np.float32(0)), "trimmed_mean": _trims(parameters)}
    for name in OF_PYCOVERM:
        if name in parameters.methods:
            figures = _ask_pycoverm(with_supplementary, parameters, trims[name], folder)
            if [contig for contig, _ in figures] != rest.contigs:
                raise MappingError("pycoverm lists other contigs than the BAM's header")
            rest.figures[name] = [text(value) for _, value in figures]
    with_supplementary.unlink()
    engine = f"pycoverm {importlib.metadata.version('pycoverm')}"
    return Coverage(rest.contigs, rest.lengths, rest.figures, engine)


def by_depth(bam: Path, parameters: Parameters) -> Coverage:
    """Measure everything by CoverM's rules."""
    found = contigs(bam, parameters.contig_end_exclusion)
    return _by_rules(found, parameters, parameters.methods)


def text(value: np.float32) -> str:
    """Print a 32-bit float with as few digits as tell it from its neighbours, as Rust does.

    >>> text(np.float32(0.1)), text(np.float32(2)), text(np.float32(1e-7))
    ('0.1', '2', '0.0000001')
    """
    return np.format_float_positional(value, unique=True, trim="-")


def write_dense(coverage: Coverage, sample: str, methods: Sequence[str], path: Path) -> None:
    """Write the table that `coverm contig` prints, with the sample for the BAM's name."""
    columns = [coverage.figures[name] for name in methods]
    heads = ["Contig", *(f"{sample} {TITLES[name]}" for name in methods)]
    _write(path, [heads, *zip(coverage.contigs, *columns, strict=True)])


def write_tidy(coverage: Coverage, sample: str, end_exclusion: int, path: Path) -> None:
    """Write one row a contig; what was not asked for, or cannot be measured, is empty.

    A contig that is all ends has no mean: CoverM prints 0, as if it were absent.
    """
    rows: list[Sequence[str]] = [TIDY]
    empty = [""] * len(coverage.contigs)
    columns = [coverage.figures.get(name, empty) for name in TIDY[4:]]
    for contig, length, *figures in zip(coverage.contigs, coverage.lengths, *columns, strict=True):
        measurable = length > 2 * end_exclusion
        if not measurable:
            figures[:2] = ["", ""]
        rows.append([sample, contig, str(length), str(measurable).lower(), *figures])
    _write(path, rows)


def _by_rules(found: Iterable[Contig], parameters: Parameters, methods: Sequence[str]) -> Coverage:
    names, lengths = [], []
    figures: dict[str, list[str]] = {name: [] for name in methods}
    rules: dict[str, Callable[[Contig], np.float32]] = {
        "mean": lambda contig: contig.mean(),
        "trimmed_mean": lambda contig: contig.trimmed_mean(
            parameters.trim_min, parameters.trim_max
        ),
        "covered_fraction": lambda contig: contig.covered_fraction(),
        "count": lambda contig: np.float32(contig.reads),
        "length": lambda contig: np.float32(contig.length),
    }
    for contig in found:
        names.append(contig.name)
        lengths.append(contig.length)
        for name in methods:
            figures[name].append(text(rules[name](contig)))
    return Coverage(names, lengths, figures, "read_mapping")


def _trims(parameters: Parameters) -> tuple[np.float32, np.float32]:
    """Give pycoverm's trims, which count from both ends.

    It takes the upper one from 1 in 32 bits: the neighbour is given that gives CoverM's own bound.
    """
    bound = np.float32(parameters.trim_max)
    upper = np.float32(1) - bound
    near = (upper, np.nextafter(upper, np.float32(0)), np.nextafter(upper, np.float32(1)))
    exact = [each for each in near if np.float32(1) - each == bound]
    return np.float32(parameters.trim_min), exact[0] if exact else upper


def _ask_pycoverm(
    bam: Path, parameters: Parameters, trims: tuple[np.float32, np.float32], folder: Path
) -> list[tuple[str, np.float32]]:
    """Run pycoverm in a child: its errors are panics that no `except Exception` catches."""
    child = Path(__file__).with_name("pycoverm_child.py")
    settings = [str(parameters.contig_end_exclusion), *(repr(float(trim)) for trim in trims)]
    # -P: the modules beside the script are not to be taken for others of the same name.
    command = [sys.executable, "-P", str(child), str(bam), *settings]
    lines = _output(folder, "pycoverm", command).splitlines()
    pairs = [line.rsplit("\t", 1) for line in lines]
    return [(contig, np.float32(float.fromhex(value))) for contig, value in pairs]


def _output(folder: Path, name: str, command: Sequence[str]) -> str:
    path = folder / f"{name}.stdout"
    with Processes(folder) as processes, path.open("wb") as stdout:
        processes.start(name, command, stdout=stdout)
        processes.wait()
    return path.read_text()


def _write(path: Path, rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines("\t".join(row) + "\n" for row in rows)
