"""Images with labels, by name, and the order in which they are trained on."""

from backroads.data.digits import load_digits
from backroads.data.known import register_dataset
from backroads.data.load import load_dataset
from backroads.data.parts import Arrays, Files, Images
from backroads.data.source import Dataset, Source, batches, epoch_order

__all__ = [
    "Arrays",
    "Dataset",
    "Files",
    "Images",
    "Source",
    "batches",
    "epoch_order",
    "load_dataset",
    "load_digits",
    "register_dataset",
]
