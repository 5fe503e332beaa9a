"""Amazon EMR on this machine: clusters that live and end, steps that really run."""

from __future__ import annotations
