"""Real data, and its order."""

from backroads.data.digits import Split, load_digits
from backroads.data.order import batches, epoch_order
from backroads.data.sets import LOADERS, load_dataset
from backroads.data.source import Dataset, Source

__all__ = ["LOADERS", "Dataset", "Source", "Split", "batches", "epoch_order", "load_dataset", "load_digits"]
