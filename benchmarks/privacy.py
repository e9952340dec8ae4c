"""What defences leave of an attack, and what they cost: recovery by defence and attack beside loss, bytes and seconds.

python benchmarks/privacy.py                                     the small embedded model, in some minutes
python benchmarks/privacy.py --smollm2 --write                   SmolLM2-135M-Instruct, in 25 minutes of one core

Each defence is a run of a sweep: a model is fine-tuned under the defence, and then attacked by attackers who know the defence
and train on defended data, with the ridge map also by one who does not. All runs are in one folder, and each attack is kept
there as it ends, so the same command goes on after an interruption. The first row has no defence.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from report import add_write_option, describe_machine, publish

from splitlearn import attack, compose
from splitlearn.attacks import AttackResult, Watch
from splitlearn.files import write_json
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
    "dchi_40": ["defence=dchi", "defence.dchi.epsilon=40"],
    "nopeek": ["defence=nopeek"],
    "nopeek_20": ["defence=nopeek", "defence.nopeek.weight=20"],
    "adversarial": ["defence=adversarial"],
    "adversarial_5": ["defence=adversarial", "defence.adversarial.weight=5"],
    "mid": ["defence=mid"],
}
# One trained transformer for each defence; the others take less.
ATTACKS = ("nearest_embedding", "ridge", "mlp", "transformer", "prefix_search")
CLEAN_TRAINED = "ridge"
# More steps would measure the fine-tuning and not the defence.
MOST_STEPS = 200
OF_ATTACKS = "attack."
CELLS_FILE = "attacks.json"
# What 25 minutes of one core allow on the real model. Steps and pieces are the limits, so figures do not depend on the machine.
SMOLLM2: dict[str, Any] = {
    "model": "smollm2_135m_instruct",
    "cut": [4, 26],
    "steps": 40,
    # The noise that replaces tokens depends on how far apart a model's embeddings are: here epsilon=200 would replace none.
    "defences": [PLAIN, "int8", "gaussian_1.0", "dchi_40", "nopeek_20", "adversarial_5", "mid"],
    "settings": [
        *("peft=lora", "data.batch_size=2", "data.block_size=64", "data.max_val_blocks=16"),
        *("attack.auxiliary_pieces=300", "attack.validation_pieces=4", "attack.test_pieces=16", "attack.prompts=2"),
        *("attack.recording_seconds=null", "attack.budgets.ridge.seconds=null", "attack.budgets.mlp.seconds=null"),
        *("attack.budgets.transformer.seconds=null", "attack.budgets.transformer.pieces=200"),
        *("attack.budgets.prefix_search.seconds=null", "attack.budgets.prefix_search.steps=10000"),
    ],
}


def train_under(name: str, args: argparse.Namespace) -> RunSummary:
    """Fine-tune a model under one defence, unless the folder holds that run; return its record."""
    settings = [
        f"model={args.model}",
        "split=points",
        *(f"split.point_{number}={point}" for number, point in enumerate(args.cut, start=1)),
        "attack=none",
        f"trainer.max_steps={args.steps}",
        "trainer.max_epochs=-1",
        "save_parts=false",
        "logger=none",
        *(setting for setting in args.settings if not setting.startswith(OF_ATTACKS)),
        *DEFENCES[name],
    ]
    place = [f"hydra.sweep.dir={args.folder}", f"hydra.sweep.subdir={name}"]
    done = subprocess.run([sys.executable, "-m", "splitlearn", "train", "-m", *place, *settings], check=False)
    summary = read_summary(args.folder / name)
    if summary is None or not summary.is_completed:
        reason = f"ended with {done.returncode}" if summary is None else f"is {summary.status}: {summary.reason}"
        raise SystemExit(f"the run {args.folder / name} {reason}")
    return summary


def attack_run(name: str, summary: RunSummary, args: argparse.Namespace) -> dict[str, Any]:
    """Run the attacks that the run's folder does not hold yet, and keep each as it ends.

    Returns:
        ``attacks``, the result of each by its name, and ``seconds``, those of all starts together.
    """
    path = args.folder / name / CELLS_FILE
    settings = [f"attack={args.attack}", *(setting for setting in args.settings if setting.startswith(OF_ATTACKS))]
    of_run = {"run_id": summary.run_id, "settings": settings}
    cells: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if {key: cells.get(key) for key in of_run} != of_run:
        cells = {**of_run, "seconds": 0.0, "attacks": {}}
    missing = [attack for attack in ATTACKS if attack not in cells["attacks"]]
    if not missing:
        return cells
    before_s, began_s = cells["seconds"], time.perf_counter()

    def keep(result: AttackResult) -> None:
        cells["attacks"][result.attack] = result.to_dict()
        cells["seconds"] = before_s + time.perf_counter() - began_s
        write_json(path, cells)
        print(f"{name}: {result.attack} {result.token_recovery:.3f} after {cells['seconds']:.0f} s", flush=True)

    more = [f"attack.attacks=[{','.join(missing)}]"]
    more += [f"attack.clean_trained=[{CLEAN_TRAINED}]"] if CLEAN_TRAINED in missing else []
    attack(compose(f"run={args.folder / name}", "ckpt=last", *settings, *more, config_name="attack"), Watch(ends=keep))
    return cells


def share(figure: float | None, ended_by: str | None = None) -> str:
    """Return a share of the tokens, with a star if its budget ended the attack."""
    return "" if figure is None else f"{figure:.3f}" + ("" if ended_by is None else "*")


def report_of(summaries: dict[str, RunSummary], found: dict[str, dict[str, Any]], args: argparse.Namespace) -> str:
    """Return the table as Markdown."""
    rows = {row["run"]: row for _, row in read_runs(args.folder).iterrows()}
    headings = ("defence", "held-out loss", *ATTACKS, "best", f"{CLEAN_TRAINED}, clean-trained")
    headings += ("over the cuts a step", "ms a step", "s of training and attacks")
    lines = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
    for name in summaries:
        row, attacks = rows[name], found[name]["attacks"]
        cells = [
            name,
            f"{row['loss']:.3f}",
            *(share(attacks[attack]["token_recovery"], attacks[attack]["budget"]["ended_by"]) for attack in ATTACKS),
            share(max(result["token_recovery"] for result in attacks.values())),
            share(attacks[CLEAN_TRAINED]["details"].get("clean_trained_recovery")),
            format_bytes(row["bytes_per_step"]),
            f"{1000 * row['step_s']:.0f}",
            f"{row['train_s']:.0f} + {found[name]['seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    first, plain = summaries[PLAIN], found[PLAIN]["attacks"].values()
    own_pieces = max(attack["budget"]["pieces"] for attack in plain)
    about = (
        f"{first.model} cut at {first.split_point_1} / {first.split_point_2}, {args.steps} steps, `attack={args.attack}` with "
        f"up to {own_pieces} pieces of the attacker's own; attackers trained on defended data. Held-out loss before any "
        f"fine-tuning and defence: {rows[PLAIN]['loss_before']:.3f}. "
        f"{max(attack['token_overlap'] for attack in plain):.1%} of the attacked tokens occur in the attacker's own texts; "
        f"guessing without looking has {max(attack['baseline']['token_recovery'] for attack in plain):.3f} of them right. "
        "A star: the budget ended the attack."
    )
    machine = describe_machine("torch", "transformers", "lightning")
    heading = f"## What defences leave of an attack\n\n{machine}, {time.strftime('%Y-%m-%d')}.\n\n{about}\n\n"
    return heading + "\n".join(lines) + "\n"


def main() -> None:
    """Run what is left to be run, and publish the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", action="store_true", help="the real model, with settings for 25 minutes of one core")
    parser.add_argument("--model", default="embedded", help="one of conf/model")
    parser.add_argument("--cut", type=int, nargs=2, default=[2, 6], help="both split points")
    parser.add_argument("--steps", type=int, default=100, help=f"of fine-tuning, at most {MOST_STEPS}")
    parser.add_argument("--attack", default="quick", help="one of conf/attack")
    parser.add_argument("--defences", nargs="+", default=list(DEFENCES), choices=list(DEFENCES), help="which; none comes first")
    parser.add_argument("--settings", nargs="*", default=[], help="further settings of all runs, such as peft=lora")
    parser.add_argument("--folder", type=Path, default=Path("privacy"), help="where the runs are, to go on with")
    add_write_option(parser)
    if "--smollm2" in sys.argv[1:]:
        parser.set_defaults(**SMOLLM2)
    args = parser.parse_args()
    if not 1 <= args.steps <= MOST_STEPS:
        parser.error(f"--steps is {args.steps}; give 1 to {MOST_STEPS}")
    summaries: dict[str, RunSummary] = {}
    found: dict[str, dict[str, Any]] = {}
    for name in (PLAIN, *(name for name in args.defences if name != PLAIN)):
        summaries[name] = train_under(name, args)
        found[name] = attack_run(name, summaries[name], args)
    publish(report_of(summaries, found, args), args.write)


if __name__ == "__main__":
    main()
