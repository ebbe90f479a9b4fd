"""Learners of streams and sequences, without a network: regression by receptive fields, ISO and ICO learning."""

from backroads.contrib.streams.lwpr import LWPRRegressor
from backroads.contrib.streams.projection import LWPRFields
from backroads.contrib.streams.rfwr import RFWRFields, RFWRRegressor
from backroads.contrib.streams.sequence import (
    ExponentialTraces,
    Filters,
    ReflexRecord,
    Resonators,
    SequenceRecord,
    SequenceUnit,
    reflex_task,
    timing_kernel,
)

__all__ = [
    "ExponentialTraces",
    "Filters",
    "LWPRFields",
    "LWPRRegressor",
    "RFWRFields",
    "RFWRRegressor",
    "ReflexRecord",
    "Resonators",
    "SequenceRecord",
    "SequenceUnit",
    "reflex_task",
    "timing_kernel",
]
