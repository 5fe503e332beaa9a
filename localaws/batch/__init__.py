"""AWS Batch on this machine: jobs that queue for vCPUs, really run, and are tried again."""

from __future__ import annotations
