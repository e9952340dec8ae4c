"""Running a plan of attacks on a model, and what came of them.

Shapes: N pieces of text, T tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from splitlearn.attacks.attack import Attack
from splitlearn.attacks.bag_of_tokens import AVERAGING, BagOfTokens, collect_embedding_gradients
from splitlearn.attacks.budget import Budget
from splitlearn.attacks.clean_trained import beside, with_clean_texts
from splitlearn.attacks.collecting import collect
from splitlearn.attacks.collecting_responses import collect_responses
from splitlearn.attacks.inverters import MlpInverter, TransformerInverter
from splitlearn.attacks.label_gradients import LabelsByConjugateGradients, LabelsFromGradients
from splitlearn.attacks.nearest import NearestEmbedding
from splitlearn.attacks.plan import PUBLIC, AttackPlan
from splitlearn.attacks.prefix_search import PrefixSearch
from splitlearn.attacks.ranking import RankingAttack
from splitlearn.attacks.responses import ReadResponses
from splitlearn.attacks.result import AttackResult
from splitlearn.attacks.ridge import RidgeMap
from splitlearn.attacks.scores import token_recovery
from splitlearn.attacks.texts import AttackTexts
from splitlearn.attacks.view import FORWARD, AttackerView, Pieces, PublicModel
from splitlearn.model import ComposedCausalLM

_HEADLINE = ("attack", "cut", "direction", "token_recovery", "rouge_l")
# Attacks that order candidates for the prefix search.
_ORDERS: dict[str, type[RankingAttack]] = {
    "transformer": TransformerInverter,
    "mlp": MlpInverter,
    "ridge": RidgeMap,
    "nearest_embedding": NearestEmbedding,
}
# Attacks on gradients know all but the labels; of their own texts they need the frequencies of tokens.
_MOST_OWN_GRADIENTS = 32
_PIECES_PER_BATCH = 4
# The attacker's own pieces by which it chooses the order of candidates.
_NUM_VALIDATED = 4
# Texts of the attacker and texts that are attacked get noise of their own.
_SEEDS = {"auxiliary": 1, "validation": 2, "test": 3}


@dataclass(frozen=True)
class LeftOut:
    """An attack that could not be run.

    Attributes:
        attack: its name.
        cut: 1 or 2.
        direction: what it looks at.
        reason: why.
    """

    attack: str
    cut: int
    direction: str
    reason: str


@dataclass(frozen=True)
class AttackReport:
    """What the attacks of a plan recovered.

    Attributes:
        results: of each attack, in the order in which they ran.
        token_overlap: share of the attacked tokens that occur in the attacker's own texts.
        left_out: attacks that could not be run.
    """

    results: tuple[AttackResult, ...]
    token_overlap: float
    left_out: tuple[LeftOut, ...] = ()

    @property
    def headline(self) -> AttackResult:
        """The attack that recovered most; among equals the one that was tried on more pieces.

        A bag of tokens is no text, so that attack is it only if there is no other.
        """
        of_text = [result for result in self.results if result.direction != AVERAGING]
        return max(of_text or self.results, key=lambda result: (result.token_recovery, result.num_pieces))

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain values: ``headline``, ``attacks``, ``token_overlap`` and ``left_out``."""
        return {
            "headline": {name: getattr(self.headline, name) for name in _HEADLINE},
            "attacks": [result.to_dict() for result in self.results],
            "token_overlap": self.token_overlap,
            "left_out": [vars(attack).copy() for attack in self.left_out],
        }


@dataclass(frozen=True, eq=False)
class Watch:
    """Functions that are told how far a plan is.

    Attributes:
        begins: is given what is begun, in words, and the most seconds that it may take, None for no limit.
        ends: is given a result.
        skips: is given an attack that cannot be run.
    """

    begins: Callable[[str, float | None], None] = lambda words, seconds: None
    ends: Callable[[AttackResult], None] = lambda result: None
    skips: Callable[[LeftOut], None] = lambda attack: None


def run_attacks(
    model: ComposedCausalLM,
    texts: AttackTexts,
    plan: AttackPlan,
    *,
    public: PublicModel | None = None,
    decode: Callable[[Sequence[int]], str] | None = None,
    watch: Watch | None = None,
) -> AttackReport:
    """Attack a model as a plan says. The model, its traffic and torch's random numbers stay as they are.

    Args:
        model: the model.
        texts: the attacker's own texts and those that are attacked.
        plan: which attacks, where and with how much.
        public: the base model's weights; None if the attacker has none. A plan with private weights does not use them.
        decode: from token ids to text; None leaves reconstructions and ROUGE-L out.
        watch: is told how far the attacks are.

    Raises:
        ValueError: nothing crosses one of the cuts, or none of the attacks can be run.
    """
    if plan.base_weights != PUBLIC:
        public = None
    run = _Run(model, texts, plan, public, decode, watch or Watch())
    for cut in plan.cuts:
        for direction in plan.directions:
            run.attack(cut, direction)
    if not run.results:
        first = run.left_out[0]
        raise ValueError(f"none of the attacks can be run; {first.attack}: {first.reason}")
    return AttackReport(tuple(run.results), texts.token_overlap, tuple(run.left_out))


@dataclass
class _Run:
    model: ComposedCausalLM
    texts: AttackTexts
    plan: AttackPlan
    public: PublicModel | None
    decode: Callable[[Sequence[int]], str] | None
    watch: Watch
    results: list[AttackResult] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def attack(self, cut: int, direction: str) -> None:
        """Run the attacks of one cut and direction."""
        names = self.plan.of(direction)
        # Averaging shows gradients of weights: there is one, whatever the cuts.
        if not names or (direction == AVERAGING and cut != self.plan.cuts[0]):
            return
        views = _Views(self, cut, direction)
        made: dict[str, Attack] = {}
        for name in names:
            try:
                view = views.of(name)
                made[name] = self._make(name, view, made)
                budget = self.plan.budget(name)
                self.watch.begins(f"{name} at cut {cut}, {direction}", budget.seconds)
                result = made[name].run(view, budget, self._generator(name, cut, direction))
                if name in self.plan.clean_trained:
                    result = self._beside_clean_trained(result, views.clean(), budget)
            except ValueError as error:
                made.pop(name, None)
                self.left_out.append(LeftOut(name, cut, direction, str(error)))
                self.watch.skips(self.left_out[-1])
                continue
            self.results.append(result)
            self.watch.ends(result)

    def _make(self, name: str, view: AttackerView, made: Mapping[str, Attack]) -> Attack:
        plan = self.plan
        if name in _ORDERS:
            return _ORDERS[name]()
        if name == "prefix_search":
            order = self._best_order([made[order] for order in _ORDERS if order in made], view)
            return PrefixSearch(order, num_prompts=plan.prompts, num_tokens=plan.prompt_tokens)
        if name == "bag_of_tokens":
            ids_NT = view.test.ids_NT
            return BagOfTokens(collect_embedding_gradients(self.model, ids_NT, _PIECES_PER_BATCH, seed=self.seed("test")))
        return {"responses": ReadResponses, "labels": LabelsFromGradients, "labels_cg": LabelsByConjugateGradients}[name]()

    def _beside_clean_trained(self, result: AttackResult, view: AttackerView, budget: Budget) -> AttackResult:
        """Return a result beside that of the same attack with the same budget, trained on undefended data."""
        name, cut, direction = result.attack, result.cut, result.direction
        self.watch.begins(f"{name} at cut {cut}, {direction}, trained on undefended data", budget.seconds)
        return beside(result, _ORDERS[name]().run(view, budget, self._generator(name, cut, direction)))

    def _best_order(self, attacks: Sequence[Attack], view: AttackerView) -> RankingAttack:
        """Return the attack that has most of the attacker's own texts right, of those that have been fitted; or a ridge map."""
        own = view.validation.first(_NUM_VALIDATED)
        best: tuple[float, RankingAttack] | None = None
        for attack in attacks:
            if isinstance(attack, RankingAttack):
                ranker, _ = attack.fitted(view, Budget(), torch.Generator())
                recovery = token_recovery(ranker.best(own.crossed_NTD.float()), own.ids_NT, own.mask_NT)
                if best is None or recovery > best[0]:
                    best = recovery, attack
        return RidgeMap() if best is None else best[1]

    def seed(self, texts: str) -> int:
        """Return the seed of the noise for auxiliary, validation or test texts."""
        return len(_SEEDS) * self.plan.seed + _SEEDS[texts]

    def _generator(self, *words: object) -> torch.Generator:
        """Return a generator for one attack, which depends on no other."""
        digest = hashlib.sha256(f"{self.plan.seed} {words}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@dataclass
class _Views:
    """What is seen of one cut in one direction; it is recorded once for all attacks."""

    run: _Run
    cut: int
    direction: str
    _known: dict[str, AttackerView] = field(default_factory=dict)
    _clean: AttackerView | None = None

    def of(self, attack: str) -> AttackerView:
        """Return what an attack looks at."""
        kind = "responses" if attack == "responses" else "texts"
        if kind not in self._known:
            self._known[kind] = self._with_responses() if kind == "responses" else self._of_texts()
        return self._known[kind]

    def clean(self) -> AttackerView:
        """Return the same with the attacker's own texts as they would cross without codec, noise and defence."""
        if self._clean is None:
            seconds = self.run.plan.recording_seconds
            self.run.watch.begins(f"what would cross cut {self.cut} without defences", seconds)
            self._clean = with_clean_texts(self.of("ridge"), seconds)
        return self._clean

    def _of_texts(self) -> AttackerView:
        run, texts = self.run, self.run.texts
        run.watch.begins(f"what crosses cut {self.cut}, {self.direction}", run.plan.recording_seconds)
        auxiliary_NT, validation_NT = texts.auxiliary_NT, texts.validation_NT
        if self.direction != FORWARD:
            auxiliary_NT, validation_NT = auxiliary_NT[:_MOST_OWN_GRADIENTS], validation_NT[:1]
        return AttackerView(
            self.cut,
            FORWARD if self.direction == AVERAGING else self.direction,
            self._recorded("auxiliary", auxiliary_NT, Budget(seconds=run.plan.recording_seconds)),
            self._recorded("validation", validation_NT),
            self._recorded("test", texts.test_NT),
            self._vocab_size(),
            run.public,
            run.decode,
        )

    def _with_responses(self) -> AttackerView:
        run, plan = self.run, self.run.plan
        if "texts" not in self._known:
            self._known["texts"] = self._of_texts()
        run.watch.begins(f"what crosses cut {self.cut} while text is generated", None)
        prompts_NP = run.texts.test_NT[: plan.prompts, : plan.prompt_tokens]
        responses = collect_responses(run.model, prompts_NP, self.cut, plan.prompt_tokens, seed=run.seed("test"))
        return replace(self._known["texts"], test=responses)

    def _recorded(self, which: str, ids_NT: torch.Tensor, budget: Budget | None = None) -> Pieces:
        direction = FORWARD if self.direction == AVERAGING else self.direction
        return collect(self.run.model, ids_NT, self.cut, direction, seed=self.run.seed(which), budget=budget)

    def _vocab_size(self) -> int:
        config: Any = self.run.model.bottom.blueprint.meta_model.config
        return int(config.get_text_config(decoder=True).vocab_size)
