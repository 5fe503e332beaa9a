"""AWS on this machine: moto's server, extended so that EMR steps and Batch jobs run.

Start it with ``python -m localaws``; drive it from tests with :class:`localaws.process.LocalAws`.
"""

from __future__ import annotations
