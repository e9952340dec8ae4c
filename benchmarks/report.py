"""Where benchmarks put what they measured."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import version
from pathlib import Path

import psutil


def add_write_option(parser: argparse.ArgumentParser) -> None:
    """Give a benchmark the option to keep its table."""
    parser.add_argument("--write", action="store_true", help="append the table to benchmarks/RESULTS.md")


def describe_machine(*libraries: str, gpu: bool = False) -> str:
    """Return the hardware, and the versions of Python and of some libraries, in one line; of the GPU only if ``gpu``."""
    memory_gib = round(psutil.virtual_memory().total / 2**30)
    versions = ", ".join(f"{name} {version(name)}" for name in libraries)
    graphics = ""
    if gpu:
        import torch

        graphics = f"{torch.cuda.get_device_name()}, "
    return f"{graphics}{psutil.cpu_count()} cores, {memory_gib} GiB, Python {platform.python_version()}, {versions}"


def publish(report: str, write: bool) -> None:
    """Print a report, and append it to RESULTS.md if ``write``."""
    print(report)
    if write:
        with (Path(__file__).parent / "RESULTS.md").open("a", encoding="utf-8") as file:
            file.write(f"\n{report}")
