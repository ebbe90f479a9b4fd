"""Count the operations of all trainings of all claims anew, into the file that ships with the claims.

python benchmarks/claim_costs.py
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import get_args

from backroads.reproduce import cost
from backroads.reproduce.arms import Campaign, arms_of, unique
from backroads.reproduce.claims import Scale, claim_ids, load_claim
from backroads.runs.files import write_json


def counted_anew() -> dict[str, float]:
    """Operations by what they depend on, of the trainings of all scales."""
    cost.counted().clear()
    for scale in get_args(Scale):
        claims = tuple(map(load_claim, claim_ids()))
        arms = [arm for claim in claims for arm in arms_of(claim, Campaign(claims, scale))]
        cost.flop_and_hours(unique(arms))
    return dict(sorted(cost.counted().items()))


if __name__ == "__main__":
    write_json(Path(str(resources.files("backroads") / "recipes" / "claims" / cost.OPERATIONS)), counted_anew())
