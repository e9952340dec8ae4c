"""What defences leave of an attack, and what they cost: recovery by defence and attack beside loss, bytes and seconds.

python benchmarks/privacy.py                                     the small embedded model, in some minutes
python benchmarks/privacy.py --model smollm2_135m_instruct --cut 4 26 --settings peft=lora --attack default --write

Each defence is a run of a sweep: a model is fine-tuned under the defence, and attacked at its end by attackers who know the
defence and train on defended data. All are runs of one folder, so the same command goes on after an interruption: runs that are
done are left alone. The first row has no defence.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from report import add_write_option, describe_machine, publish

from splitlearn.memory import format_bytes
from splitlearn.report import read_runs
from splitlearn.runs import RunSummary, read_summary

PLAIN = "none"
DEFENCES: dict[str, list[str]] = {
    PLAIN: [],
    "int8": ["boundary=int8"],
    "int4": ["boundary=int4"],
    "topk": ["boundary=topk"],
    "gaussian_0.3": ["boundary=gaussian"],
    "gaussian_1.0": ["boundary=gaussian", "boundary.cut_1.forward.noise_rms=1.0"],
    "dchi": ["defence=dchi"],
    "nopeek": ["defence=nopeek"],
    "adversarial": ["defence=adversarial"],
    "mid": ["defence=mid"],
}
# One trained transformer for each defence; the others take less.
ATTACKS = ("nearest_embedding", "ridge", "mlp", "transformer", "prefix_search")
# More steps would measure the fine-tuning and not the defence.
MOST_STEPS = 200


def run_defence(name: str, args: argparse.Namespace) -> RunSummary:
    """Fine-tune and attack a model under one defence, unless the folder holds that run; return its record."""
    settings = [
        f"model={args.model}",
        "split=points",
        *(f"split.point_{number}={point}" for number, point in enumerate(args.cut, start=1)),
        f"attack={args.attack}",
        f"attack.attacks=[{','.join(ATTACKS)}]",
        "callbacks.attacks.before=false",
        f"trainer.max_steps={args.steps}",
        "trainer.max_epochs=-1",
        "save_parts=false",
        "logger=none",
        *args.settings,
        *DEFENCES[name],
    ]
    place = [f"hydra.sweep.dir={args.folder}", f"hydra.sweep.subdir={name}"]
    done = subprocess.run([sys.executable, "-m", "splitlearn", "train", "-m", *place, *settings], check=False)
    summary = read_summary(args.folder / name)
    if summary is None or not summary.is_completed:
        reason = f"ended with {done.returncode}" if summary is None else f"is {summary.status}: {summary.reason}"
        raise SystemExit(f"the run {args.folder / name} {reason}")
    return summary


def recovery_of(summary: RunSummary, attack: str) -> str:
    """Return the share of the tokens that an attack recovered, with a star if its budget ended it."""
    found: list[dict[str, Any]] = (summary.attacks or {}).get("attacks") or []
    for result in found:
        if result["attack"] == attack:
            return f"{result['token_recovery']:.3f}" + ("" if result["budget"]["ended_by"] is None else "*")
    return ""


def report_of(summaries: dict[str, RunSummary], args: argparse.Namespace) -> str:
    """Return the table as Markdown."""
    rows = {row["run"]: row for _, row in read_runs(args.folder).iterrows()}
    headings = ("defence", "held-out loss", *ATTACKS, "best", "over the cuts a step", "ms a step", "s of training and attacks")
    lines = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
    for name, summary in summaries.items():
        row, attacks = rows[name], summary.attacks or {}
        cells = [
            name,
            f"{row['loss']:.3f}",
            *(recovery_of(summary, attack) for attack in ATTACKS),
            f"{row['token_recovery']:.3f}",
            format_bytes(row["bytes_per_step"]),
            f"{1000 * row['step_s']:.0f}",
            f"{row['train_s']:.0f} + {attacks.get('seconds') or 0:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    first = summaries[PLAIN]
    baselines = [attack["baseline"]["token_recovery"] for attack in (first.attacks or {}).get("attacks") or []]
    overlap = (first.attacks or {}).get("token_overlap") or 0.0
    about = (
        f"{first.model} cut at {first.split_point_1} / {first.split_point_2}, {args.steps} steps, `attack={args.attack}`; "
        "attackers trained on defended data. Held-out loss before any fine-tuning and defence: "
        f"{rows[PLAIN]['loss_before']:.3f}. "
        f"{overlap:.1%} of the attacked tokens occur in the attacker's own texts; guessing without looking has "
        f"{max(baselines, default=0.0):.3f} of them right. A star: the budget ended the attack."
    )
    machine = describe_machine("torch", "transformers", "lightning")
    heading = f"## What defences leave of an attack\n\n{machine}, {time.strftime('%Y-%m-%d')}.\n\n{about}\n\n"
    return heading + "\n".join(lines) + "\n"


def main() -> None:
    """Run what is left to be run, and publish the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="one of conf/model")
    parser.add_argument("--cut", type=int, nargs=2, default=[2, 6], help="both split points")
    parser.add_argument("--steps", type=int, default=100, help=f"of fine-tuning, at most {MOST_STEPS}")
    parser.add_argument("--attack", default="quick", help="one of conf/attack")
    parser.add_argument("--defences", nargs="+", default=list(DEFENCES), choices=list(DEFENCES), help="which; none comes first")
    parser.add_argument("--settings", nargs="*", default=[], help="further settings of all runs, such as peft=lora")
    parser.add_argument("--folder", type=Path, default=Path("privacy"), help="where the runs are, to go on with")
    add_write_option(parser)
    args = parser.parse_args()
    if not 1 <= args.steps <= MOST_STEPS:
        parser.error(f"--steps is {args.steps}; give 1 to {MOST_STEPS}")
    names = [PLAIN, *(name for name in args.defences if name != PLAIN)]
    publish(report_of({name: run_defence(name, args) for name in names}, args), args.write)


if __name__ == "__main__":
    main()
