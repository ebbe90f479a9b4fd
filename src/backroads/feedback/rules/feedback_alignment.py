"""Feedback alignment."""

from __future__ import annotations

from backroads.feedback.rules.alignment import Alignment


def feedback_alignment() -> Alignment:
    """Feedback alignment: ``dx = B^T dy`` with B fixed and random. R = 0.

    Source: Lillicrap, Cownden, Tweed, Akerman, Nature Communications 7 (2016).
    """
    return Alignment()
