"""What sets backward weights between epochs, apart from the training itself."""

from backroads.phases.noise import mirror

__all__ = ["mirror"]
