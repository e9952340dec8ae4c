"""Where benchmarks put what they measured."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_write_option(parser: argparse.ArgumentParser) -> None:
    """Give a benchmark the option to keep its table."""
    parser.add_argument("--write", action="store_true", help="append the table to benchmarks/RESULTS.md")


def publish(report: str, write: bool) -> None:
    """Print a report, and append it to RESULTS.md if ``write``."""
    print(report)
    if write:
        with (Path(__file__).parent / "RESULTS.md").open("a", encoding="utf-8") as file:
            file.write(f"\n{report}")
