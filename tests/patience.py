"""How long a test waits for a process."""

from __future__ import annotations

PATIENCE = 1200.0
"""Seconds until a process counts as hanging: far more than any takes, on the slowest machine."""
