"""Attacks on a run while it is trained: which, on which texts, and what its record says of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from omegaconf import DictConfig

from splitlearn.app.attack_texts import WHOLE_DOCUMENTS, attack_texts
from splitlearn.app.attacking import decoder_of, public_model, refuse_uncrossed
from splitlearn.app.configuration import make, plain
from splitlearn.attacks import AVERAGING, BACKWARD, AttackPlan, AttackReport, run_attacks
from splitlearn.cut import PART_NAMES, Placement
from splitlearn.data import BlockDataModule, read_tokenizer
from splitlearn.loading import OpenedModel
from splitlearn.model import ComposedCausalLM
from splitlearn.naming import named, naming_group
from splitlearn.training import SplitCausalLM
from splitlearn.training.callbacks import Attacks, find_callback, keeping_generators

MOMENTS = ("before", "epoch", "after")
# What the record says of attacks between epochs; of the others it says all.
_OF_EPOCHS = ("step", "seconds", "headline", "reason")


def prepare_attacks(
    cfg: DictConfig, opened: OpenedModel, placement: Placement, datamodule: LightningDataModule, trainer: Trainer
) -> None:
    """Give the trainer's callback the attacks that a configuration names, and refuse those that cannot be run.

    Held-out documents are attacked, and those that are trained on are the attacker's own. The random numbers of the run stay
    where they are.

    Args:
        cfg: the run's configuration.
        opened: the model, cut.
        placement: who holds which part.
        datamodule: the run's data.
        trainer: the run's trainer.

    Raises:
        ValueError: an attack cannot be run on this cut or these data, or nothing in the trainer would run it.
    """
    settings = plain(cfg.get("attack"))
    if not settings or not settings["attacks"]:
        return
    attacks = find_callback(trainer, Attacks)
    if attacks is None:
        names = ", ".join(settings["attacks"])
        raise ValueError(f"attack.attacks is [{names}], but callbacks.attacks, which runs them, is left out; set attack=none")
    with naming_group("attack"):
        plan = AttackPlan.from_plain(settings)
    refuse_uncrossed(plan, placement)
    _refuse_at_servers(plan, placement)
    source = {"tokenizer_name_or_path": opened.source.name, "tokenizer_revision": opened.source.commit}
    if not isinstance(datamodule, BlockDataModule):
        raise ValueError("attack is set, but data of another class than splitlearn's own cannot be attacked; set attack=none")
    with keeping_generators():
        documents: BlockDataModule = make(cfg.data, **source, **WHOLE_DOCUMENTS)
        documents.setup("fit")
        texts = attack_texts(documents, plan)
    decode = decoder_of(read_tokenizer(opened.source.name, opened.source.commit))

    def suite(composed: ComposedCausalLM) -> Mapping[str, Any]:
        report = run_attacks(composed, texts, plan, public=public_model(opened, plan), decode=decode)
        if cfg.verbose:
            print(_in_words(report))
        return report.to_dict()

    attacks.suite = suite
    # The best state is in the module only once training is over.
    attacks.waits_for_best = cfg.load_best_model_at_end


def _refuse_at_servers(plan: AttackPlan, placement: Placement) -> None:
    """Refuse attacks that a server cannot take part in: it keeps a top to itself, and would keep gradients of its weights.

    Raises:
        ValueError: there is such a server.
    """
    if not any(placement.addresses()):
        return
    otherwise = "attack the run's checkpoint afterwards: python -m splitlearn attack run=FOLDER ckpt=last"
    if not placement.party(placement.holder(PART_NAMES[-1])).is_here:
        raise ValueError(
            f"attack is set, but the top is at a server, which keeps it to itself; set attack=none, and {otherwise}"
        )
    trunk_is_here = placement.party(placement.holder(PART_NAMES[1])).is_here
    if not trunk_is_here and (AVERAGING in plan.directions or (BACKWARD in plan.directions and 1 in plan.cuts)):
        raise ValueError(
            f"{named('attack.directions')} is [{', '.join(plan.directions)}] at the cuts {list(plan.cuts)}, which takes "
            f"gradients of the trunk, and a server would keep them for its next step; leave these out, and {otherwise}"
        )


def finish_attacks(trainer: Trainer, module: SplitCausalLM) -> dict[str, Any] | None:
    """Attack the best state, if the run ends with that one, and return what the run's record says of all attacks.

    Args:
        trainer: the run's trainer, after training.
        module: the module as the run leaves it.

    Returns:
        As in ``summary.json``; None if nothing was to be attacked.
    """
    attacks = find_callback(trainer, Attacks)
    if attacks is None or attacks.suite is None:
        return None
    if attacks.after and attacks.waits_for_best:
        attacks.attack(trainer, module, "after")
    of_moment = {moment: [result for result in attacks.results if result["moment"] == moment] for moment in MOMENTS}
    nothing: dict[str, Any] = {"headline": None, "attacks": []}
    return {
        **(of_moment["after"] or [nothing])[-1],
        "before": next(iter(of_moment["before"]), None),
        "epochs": [{name: result.get(name) for name in _OF_EPOCHS} for result in of_moment["epoch"]],
    }


def _in_words(report: AttackReport) -> str:
    best = report.headline
    where = f"{best.attack} at cut {best.cut}, {best.direction}"
    return f"attacks recover at best {best.token_recovery:.1%} of the tokens ({where})"
