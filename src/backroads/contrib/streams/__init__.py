"""Learners of streams and sequences, which have no network: regression by receptive fields."""

from backroads.contrib.streams.lwpr import LWPRRegressor
from backroads.contrib.streams.projection import LWPRFields
from backroads.contrib.streams.rfwr import RFWRFields, RFWRRegressor

__all__ = ["LWPRFields", "LWPRRegressor", "RFWRFields", "RFWRRegressor"]
