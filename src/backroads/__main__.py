"""``python -m backroads``."""

from backroads.cli import main

main()
