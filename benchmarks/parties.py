"""What a step costs if a server holds the trunk: client and server in processes of their own, against one process.

    python benchmarks/parties.py                      the small embedded model, 4 x 128 tokens a step
    python benchmarks/parties.py --smollm2 --write    SmolLM2-135M-Instruct with LoRA, in half an hour of two quiet cores
    python benchmarks/parties.py --cases one tls-4 --steps 3 --folder /tmp/parties

Client and server have one thread each, and one process has two. Cases: with mutual TLS or in the clear, with 1, 2 or 4
microbatches, with the codec int8, and over a link as slow as a network (100 Mbit/s, 20 ms unless told otherwise). Times are
medians of the steps of a run, without its first. The ideal follows from the stages of a step, each measured alone with one
thread: the two parties do what they can at the same time, and the way between them takes no time. Serialising is the writing
and the reading of all messages by both parties, measured alone; transport is what a client waits longer than the server
computes. Bytes on the wire are those of a run for each of its steps, greeting and farewell included, so few steps show more.

Each case is kept in the folder as it ends, so the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parties_runs import CASES, GENERATIONS, child, generate, run
from parties_table import MICROBATCHES, table_of_generation, table_of_link, table_of_steps, words_on_goals
from report import add_write_option, describe_machine, publish

from splitlearn.certificates import make_certificates
from splitlearn.files import write_json

CELLS_FILE = "cells.json"
STAGES = "stages"
# Without which the kept figures would be of something else.
_OF_FIGURES = ("settings", "steps", "rows", "tokens", "new_tokens", "mbps", "rtt")
SMOLLM2: dict[str, Any] = {
    "settings": ["model=smollm2_135m_instruct", "split=points", "split.point_1=4", "split.point_2=26", "peft=lora"],
    "steps": 16,
}


class Kept:
    """Figures that are kept in a file as they come.

    Args:
        path: the file. Figures that were measured with other settings are measured anew.
        of_figures: the settings that they depend on.
    """

    def __init__(self, path: Path, of_figures: dict[str, Any]) -> None:
        self._path = path
        self._content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        if self._content.get("of") != of_figures:
            self._content = {"of": of_figures, "figures": {}}

    def get(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the figures of a name, and measure them first if they are not there."""
        figures: dict[str, Any] = self._content["figures"]
        if name not in figures:
            # As JSON has it, whose keys are texts.
            figures[name] = json.loads(json.dumps(measure()))
            write_json(self._path, self._content)
            print(f"{name}: {json.dumps(figures[name])}", flush=True)
        of_name: dict[str, Any] = figures[name]
        return of_name


def main() -> None:
    """Measure what is not there yet, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*CASES, STAGES, *GENERATIONS]
    parser.add_argument("--smollm2", action="store_true", help="the real model, 16 steps unless told otherwise")
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps of each run; the first is not counted")
    parser.add_argument("--runs", type=int, default=1, help="runs of each case, in turn; the one of the median step is shown")
    parser.add_argument("--cases", nargs="+", choices=names, default=names, help="which to run; all by default")
    parser.add_argument("--rows", type=int, default=4, help="rows of a batch, a multiple of 4")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of a row")
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens to generate")
    parser.add_argument("--mbps", type=float, default=100.0, help="megabits a second of the slow link, in each direction")
    parser.add_argument("--rtt", type=float, default=20.0, help="milliseconds of a round trip over the slow link")
    parser.add_argument("--settings", nargs="*", default=[], help="settings of model, split, peft and optimizer, for all cases")
    folder = Path("outputs/benchmarks/parties")
    parser.add_argument("--folder", type=Path, default=folder, help="where figures are kept, to go on with")
    add_write_option(parser)
    if "--smollm2" in sys.argv[1:]:
        parser.set_defaults(**SMOLLM2)
    args = parser.parse_args()
    if args.rows % max(MICROBATCHES) or args.rows < 1 or args.steps < 2:
        parser.error(f"--rows is {args.rows} and --steps {args.steps}; give a multiple of 4 rows, and 2 steps or more")
    args.folder.mkdir(parents=True, exist_ok=True)
    kept = Kept(args.folder / CELLS_FILE, {name: getattr(args, name) for name in _OF_FIGURES})
    publish(report(measure(kept, args), args), args.write)


def measure(kept: Kept, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Run what is not kept yet, and return the figures of each case: those of its median run."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in args.cases}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_certificates(folder / "keys", ["server", "client"], ["localhost"])
        for number in range(args.runs):
            # The first of a round may find caches cold, so they take turns.
            for name in args.cases if number % 2 == 0 else reversed(args.cases):
                title = f"{name}-{number}"

                def figures(name: str = name, title: str = title) -> dict[str, Any]:
                    if name == STAGES:
                        return child(STAGES, args.settings, args, num_threads=1)
                    return (
                        run(CASES[name], folder, title, args)
                        if name in CASES
                        else generate(GENERATIONS[name], folder, title, args)
                    )

                runs[name].append(kept.get(title, figures))
    return {name: middle_of(several) for name, several in runs.items()}


def middle_of(several: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of the run whose step, or rate, is the median one; the first where there is neither."""
    rates = [figures.get("step") or figures.get("tokens_per_s") or 0.0 for figures in several]
    return several[rates.index(statistics.median_low(rates))]


def report(figures: dict[str, dict[str, Any]], args: argparse.Namespace) -> str:
    """Return the results as a Markdown section."""
    stages, settings = figures.get(STAGES), " ".join(args.settings) or "the embedded model"
    about = (
        f"{describe_machine('torch', 'lightning', 'transformers', 'grpcio')}; {settings}; {args.rows} x {args.tokens} tokens a "
        f"step, {args.steps} steps, {args.runs} runs; client and server with a thread each, one process with two; the slow "
        f"link has {args.mbps:g} Mbit/s and {args.rtt:g} ms; {args.new_tokens} tokens are generated."
    )
    lines = ["## A server that holds the trunk", "", about, "", *table_of_steps(CASES, figures, stages)]
    lines += [*table_of_link(CASES, figures), *table_of_generation(GENERATIONS, figures), *words_on_goals(figures, stages)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
