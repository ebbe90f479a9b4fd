"""Backward weights: rules, the layers that hold them, and the conversion of a model."""
