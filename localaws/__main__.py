"""``python -m localaws``: start the server."""

from __future__ import annotations

import sys

from localaws.application import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
