"""The command ``backroads`` and ``python -m backroads``."""

import sys

from backroads.errors import MissingDependencyError
from backroads.extras import extra_named


def main() -> None:
    """Run the command line; without the packages that it needs, say what to install and exit with status 2."""
    try:
        with extra_named("the command line"):
            from backroads.cli import main as run
    except MissingDependencyError as error:
        print(f"backroads: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # while the packages are imported
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
