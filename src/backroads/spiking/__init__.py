"""Weight estimation by spikes: circuits of integrate-and-fire neurons, and what their spikes tell about W."""

from backroads.spiking.circuit import Circuit, Recording
from backroads.spiking.discontinuity import Evidence, RegressionDiscontinuity, Simulator
from backroads.spiking.pair import Pair
from backroads.spiking.phase import Estimate, Phase, estimate
from backroads.spiking.settings import Drive, Neuron

__all__ = [
    "Circuit",
    "Drive",
    "Estimate",
    "Evidence",
    "Neuron",
    "Pair",
    "Phase",
    "Recording",
    "RegressionDiscontinuity",
    "Simulator",
    "estimate",
]
