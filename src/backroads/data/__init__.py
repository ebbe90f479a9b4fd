"""Real data, and its order."""

from backroads.data.digits import Split, load_digits
from backroads.data.load import load_dataset
from backroads.data.order import batches, epoch_order
from backroads.data.source import Dataset, Source

__all__ = ["Dataset", "Source", "Split", "batches", "epoch_order", "load_dataset", "load_digits"]
