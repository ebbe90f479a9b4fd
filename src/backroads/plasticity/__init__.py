"""Meta-learned feedback and local plasticity: networks that learn to learn, one example after another."""

from __future__ import annotations

from backroads.extras import extra_named

with extra_named("backroads.plasticity"):  # options are pydantic's
    from backroads.plasticity.lifetime import Stream, lifetime, loss_of, predict
    from backroads.plasticity.rule import LocalRule

__all__ = ["LocalRule", "Stream", "lifetime", "loss_of", "predict"]
