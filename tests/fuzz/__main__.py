"""Look for files of other people that are read wrongly.

    python -m tests.fuzz MINUTES [TARGET...]

Each target is a file: a header, an index, a part, a checkpoint, a record, an adapter and more. Damaged ones are read as the
commands read them, and only documented errors may come of it: nothing hangs, takes memory, or is opened elsewhere. An input
that shows otherwise is made as simple as it can be and kept in tests/fuzz/kept; the suite reads it from then on.
"""

from __future__ import annotations

import argparse
import logging

from tests.fuzz.running import fuzz_all
from tests.fuzz.targets import TARGETS


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float, help="for how long, over all targets")
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    return 0 if fuzz_all([TARGETS[name] for name in arguments.targets or TARGETS], arguments.minutes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
