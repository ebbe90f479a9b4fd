"""Feedback alignment."""

from __future__ import annotations

from backroads.feedback.checks import checked_options
from backroads.feedback.rules.alignment import Alignment


@checked_options
def feedback_alignment() -> Alignment:
    """Feedback alignment: ``dx = B^T dy`` with B fixed and random. R = 0.

    Source: Lillicrap, Cownden, Tweed, Akerman, Nature Communications 7 (2016).
    """
    return Alignment()
