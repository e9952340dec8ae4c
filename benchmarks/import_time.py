"""What `import splitlearn` costs, against starting Python and against importing torch.

python benchmarks/import_time.py --write          append the table to benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from report import add_write_option, publish

STATEMENTS = {
    "nothing": "pass",
    "`import splitlearn`": "import splitlearn",
    "`import torch`": "import torch",
    "`from splitlearn import ModelFactory`": "from splitlearn import ModelFactory",
}


def seconds(statement: str) -> float:
    """Return how long a fresh Python takes to run a statement."""
    began_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - began_s


def main() -> None:
    """Time every statement in turn and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    add_write_option(parser)
    arguments = parser.parse_args()
    rounds = [{name: seconds(code) for name, code in STATEMENTS.items()} for _ in range(arguments.runs + 1)][1:]
    medians = {name: statistics.median(each[name] for each in rounds) for name in STATEMENTS}
    rows = ["| statement | s | more than nothing, s |", "|---|---|---|"]
    rows += [f"| {name} | {value:.3f} | {value - medians['nothing']:.3f} |" for name, value in medians.items()]
    python = ".".join(map(str, sys.version_info[:3]))
    report = f"## Import time\n\nPython {python}; median of {arguments.runs} runs.\n\n" + "\n".join(rows) + "\n"
    publish(report, arguments.write)


if __name__ == "__main__":
    main()
