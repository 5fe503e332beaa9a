"""Everything that can be known to go wrong with a mapping before a job is paid for."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aws_jobs.aws_errors import error_code, error_message
from aws_jobs.batch_capacity import BatchCapacity, JobNeeds
from aws_jobs.exceptions import InputError
from aws_jobs.mapping_params import job_parameters, parameter_problems
from aws_jobs.sample_claims import THREADS
from aws_jobs.sample_outputs import differences, read_manifest
from aws_jobs.sample_sheet import pair_problems, shared_reads, unreadable
from aws_jobs.samples import Sample, name_problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aws_jobs.mapping_clients import MappingClients
    from aws_jobs.settings import Architecture

log = logging.getLogger(__name__)

# What bwa reads beside the reference.
INDEX_SUFFIXES = (".amb", ".ann", ".bwt", ".pac", ".sa")
# More tasks than this fail the task that asks for them.
_MAX_MAP_LENGTH = 1024
# Of a long list of samples, so many are named.
_SHOWN = 5


@dataclass
class MappingChecks:
    """The checks of one run; they collect, and the first to raise is the last.

    :param architectures: where its jobs will run.
    :param maps_finished: whether samples are mapped whatever the table says of them.
    """

    params: Mapping[str, Any]
    architectures: Sequence[Architecture]
    maps_finished: bool
    clients: MappingClients
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    sample_problems: dict[str, list[str]] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """Make all checks.

        :returns: what the run's other tasks need to know.
        :raises InputError: with every problem.
        """
        genomics = self.clients.genomics
        reference = f"s3://{self.clients.settings.bucket}/{genomics.reference}"
        self.problems += parameter_problems(self.params)
        self._check_reference(reference)
        images = self._check_batch()
        self._check_images(images)
        samples = self._selected()
        finished = {name: each for name, each in samples.items() if self._is_done(each)}
        to_map = {name: each for name, each in samples.items() if name not in finished}
        self._check_reads(samples, to_map)
        self._check_places(to_map)
        self._check_finished(finished, reference)
        self._check_length(len(to_map))
        refused = self._refused()
        for warning in self.warnings:
            log.warning("%s", warning)
        return {
            "table": self._table_name,
            "arch": self.architectures[0] if len(self.architectures) == 1 else None,
            "reference": reference,
            "images": images,
            "parameters": job_parameters(self.params),
            "samples": {
                name: {"r1": each.r1, "r2": each.r2}
                for name, each in to_map.items()
                if name not in refused
            },
            "finished": {
                name: each.outputs for name, each in finished.items() if name not in refused
            },
            "refused": refused,
            "warnings": self.warnings,
        }

    @property
    def _table_name(self) -> str:
        return self.params.get("table") or self.clients.genomics.samples_table

    def _is_done(self, sample: Sample) -> bool:
        return sample.is_finished and not self.maps_finished

    def _selected(self) -> dict[str, Sample]:
        table = self.clients.table(self._table_name)
        try:
            samples, unmatched = table.select(self.params["samples"])
        except Exception as error:
            if error_code(error) not in ("ResourceNotFoundException", "ValidationException"):
                raise
            self.problems.append(f"the table {table.name}: {error_message(error)}")
            return {}
        self.problems += [f"there is no sample {each} in {table.name}" for each in unmatched]
        return samples

    def _check_reads(self, samples: Mapping[str, Sample], to_map: Mapping[str, Sample]) -> None:
        """Look at the reads of what will be mapped."""
        shared = shared_reads({name: (each.r1, each.r2) for name, each in samples.items()})
        readable = []
        for name, sample in to_map.items():
            wrong = pair_problems(sample.r1, sample.r2)
            readable += [] if wrong else [sample]
            if problem := name_problem(name):
                wrong.insert(0, problem)
            if name in shared:
                wrong.append(shared[name])
            if wrong:
                self.sample_problems[name] = wrong
        uris = [uri for sample in readable for uri in (sample.r1, sample.r2)]
        wrong_uris = unreadable(self.clients.s3, uris)
        for sample in readable:
            wrong = [wrong_uris[uri] for uri in (sample.r1, sample.r2) if uri in wrong_uris]
            if wrong:
                self.sample_problems.setdefault(sample.name, []).extend(wrong)

    def _check_places(self, to_map: Mapping[str, Sample]) -> None:
        """Warn of reads where the jobs' role of include/infra/genomics.yaml does not reach."""
        source = f"s3://{self.clients.settings.bucket}/source/"
        apart = [
            name
            for name, each in to_map.items()
            if not (each.r1.startswith(source) and each.r2.startswith(source))
        ]
        if apart:
            more = f" and {len(apart) - _SHOWN} more" if len(apart) > _SHOWN else ""
            self.warnings.append(
                f"The reads of {', '.join(apart[:_SHOWN])}{more} are not below {source}: see that "
                "the jobs' role may read them"
            )

    def _check_finished(self, finished: Mapping[str, Sample], reference: str) -> None:
        """Look whether what earlier runs made is there, and is what this one asks for."""
        s3 = self.clients.s3
        parameters = job_parameters(self.params)

        def look(sample: Sample) -> list[str]:
            manifest = read_manifest(s3, sample.outputs) if sample.outputs else None
            if manifest is None:
                return [
                    f"it is finished, but its outputs are gone ({sample.outputs}): reset it, or "
                    "recompute"
                ]
            asked = {"r1": sample.r1, "r2": sample.r2, "reference": reference}
            found = differences(manifest, {**asked, "parameters": parameters})
            return [f"it is finished with others: {'; '.join(found)}: recompute"] if found else []

        with ThreadPoolExecutor(THREADS) as pool:
            for name, wrong in zip(finished, pool.map(look, finished.values()), strict=True):
                if wrong:
                    self.sample_problems[name] = wrong

    def _check_reference(self, reference: str) -> None:
        files = [reference, *(f"{reference}{suffix}" for suffix in INDEX_SUFFIXES)]
        wrong = unreadable(self.clients.s3, files, gzipped=False)
        self.problems += wrong.values()
        if any(uri != reference for uri in wrong):
            self.problems.append(
                f"the index of {reference} is not complete: make it with "
                f"`index-reference {reference}`"
            )

    def _check_batch(self) -> dict[str, str | None]:
        """Look whether Batch can run the jobs, and return the image of each architecture."""
        genomics = self.clients.genomics
        jobs = [
            JobNeeds(
                name=f"mapping on {arch}",
                queues=genomics.queues[arch],
                definition=genomics.job_definitions[arch],
                arch=arch,
                vcpus=genomics.vcpus,
                memory_mib=genomics.memory_cap_mib,
            )
            for arch in self.architectures
        ]
        merge = JobNeeds("merging", [genomics.merge_queue], genomics.merge_job_definition)
        capacity = BatchCapacity(self.clients.batch, self.clients.ec2)
        found = capacity.check([*jobs, merge])
        self.problems += found.problems
        self.warnings += found.warnings
        return {arch: capacity.image(genomics.job_definitions[arch]) for arch in self.architectures}

    def _check_images(self, images: Mapping[str, str | None]) -> None:
        """Make sure that a comparison is one of machines, and that it can be told what ran."""
        named = {arch: image for arch, image in images.items() if image}
        if len(named) < 2:
            return
        if len(set(named.values())) > 1:
            which = ", ".join(f"{image} on {arch}" for arch, image in named.items())
            self.problems.append(f"the same image must run on all, not {which}")
        elif not all("@sha256:" in image for image in named.values()):
            self.warnings.append(f"{next(iter(named.values()))} is not named by its digest")

    def _check_length(self, samples: int) -> None:
        from airflow.sdk.configuration import conf

        limit = conf.getint("core", "max_map_length", fallback=_MAX_MAP_LENGTH)
        per_job = self.params["samples_per_job"]
        if -(-samples // per_job) > limit:
            self.problems.append(
                f"{samples} samples, {per_job} to a job, are more tasks than Airflow maps "
                f"({limit}): set samples_per_job to {-(-samples // limit)} or more"
            )

    def _refused(self) -> dict[str, str]:
        """Return the samples that the run does without.

        :raises InputError: where there are too many of them, or anything else is wrong.
        """
        per_sample = {name: "; ".join(why) for name, why in sorted(self.sample_problems.items())}
        too_many = len(per_sample) > self.params.get("max_failed", 0)
        if self.problems or too_many:
            problems = [*self.problems, *(f"{name}: {why}" for name, why in per_sample.items())]
            raise InputError("The mapping cannot begin", problems)
        return per_sample
