"""Map a sample's reads to a reference, filter them as CoverM does, and measure contig coverage.

    python -m read_mapping.index_reference s3://bucket/ref_data/x.fa
    python -m read_mapping.map_sample s3://bucket/items.jsonl
    python -m read_mapping.merge_coverage s3://bucket/request.jsonl

Needs bwa, samtools, mawk and tee on PATH; `coverm` is used where it is there.
"""
