"""Meta-learned feedback and local plasticity: networks that learn to learn, one example after another.

:mod:`~backroads.plasticity.lifetime` has what a network does in a lifetime (read this first),
:mod:`~backroads.plasticity.rule` the local rule. Nothing is imported here, so that the command's settings need no
torch.
"""

from __future__ import annotations

from backroads.extras import extra_named

with extra_named("backroads.plasticity"):
    import pydantic  # noqa: F401  (of the settings)
