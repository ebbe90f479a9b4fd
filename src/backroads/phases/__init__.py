"""What sets backward weights between epochs, apart from the training itself."""

from backroads.phases.base import PHASES, Phase, Taught, get_phase, register_phase
from backroads.phases.noise import NoisePhase, mirror

__all__ = ["PHASES", "NoisePhase", "Phase", "Taught", "get_phase", "mirror", "register_phase"]
