"""Keeps Airflow running until its standard input ends: `python -m cli.demo.keeper HOME` prints the address."""

from __future__ import annotations

import os
import sys
from pathlib import Path

POLITE = 3  # training shares the machine with the stream, and the stream goes first


def main(home: Path) -> None:
    from ops import local

    os.nice(POLITE)
    with local.running(home, airflow=True) as services:
        print(services.airflow_url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
