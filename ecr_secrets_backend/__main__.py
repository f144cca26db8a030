"""Run the command as ``python -m ecr_secrets_backend``, if its script is not on the PATH."""

from __future__ import annotations

import sys

from ecr_secrets_backend.cli import main

if __name__ == "__main__":
    sys.exit(main())
