"""``python -m kseg`` is the ``kseg`` command."""

import sys

from kseg.cli import main

if __name__ == "__main__":
    sys.exit(main())
