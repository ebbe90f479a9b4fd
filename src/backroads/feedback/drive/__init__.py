"""What drives a layer while its B is taught: one file each, with its data and its arithmetic."""

from backroads.feedback.drive.activity import Activity
from backroads.feedback.drive.base import Drive
from backroads.feedback.drive.impulses import Impulses
from backroads.feedback.drive.white_noise import WhiteNoise

__all__ = ["Activity", "Drive", "Impulses", "WhiteNoise"]
