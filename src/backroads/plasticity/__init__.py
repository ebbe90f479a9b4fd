"""Meta-learned feedback and local plasticity: networks that learn to learn, one example after another."""

from __future__ import annotations

from backroads.plasticity.lifetime import Stream, Trace, lifetime, live, loss_of, predict
from backroads.plasticity.rule import LocalRule

__all__ = ["LocalRule", "Stream", "Trace", "lifetime", "live", "loss_of", "predict"]
