"""Weight estimation by spikes: circuits of integrate-and-fire neurons, and an estimate of W from their spikes."""

from backroads.contrib.spiking.circuit import Circuit, Recording
from backroads.contrib.spiking.discontinuity import Evidence, RegressionDiscontinuity, Simulator
from backroads.contrib.spiking.pair import Pair
from backroads.contrib.spiking.phase import Estimate, SpikePhase, estimate
from backroads.contrib.spiking.settings import Drive, Neuron

__all__ = [
    "Circuit",
    "Drive",
    "Estimate",
    "Evidence",
    "Neuron",
    "Pair",
    "Recording",
    "RegressionDiscontinuity",
    "Simulator",
    "SpikePhase",
    "estimate",
]
