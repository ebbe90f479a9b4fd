"""Real data, and its order."""

from backroads.data.digits import Split, load_digits
from backroads.data.order import batches, epoch_order

__all__ = ["Split", "batches", "epoch_order", "load_digits"]
