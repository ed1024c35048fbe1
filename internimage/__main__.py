"""`python -m internimage` is the `internimage` command."""

import sys

from internimage.tasks.cli import main

if __name__ == "__main__":
    sys.exit(main())
