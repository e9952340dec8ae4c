"""Attacks on the data that cross a cut: the texts that an honest-but-curious party can recover from them."""

from splitlearn.attacks.attack import Attack
from splitlearn.attacks.bag_of_tokens import AVERAGING, BagOfTokens, EmbeddingGradients, collect_embedding_gradients
from splitlearn.attacks.baseline import measure_baseline
from splitlearn.attacks.budget import Budget, BudgetMeter, BudgetUse
from splitlearn.attacks.collecting import collect
from splitlearn.attacks.collecting_responses import collect_responses
from splitlearn.attacks.inverters import MlpInverter, TrainedInverter, TransformerInverter
from splitlearn.attacks.label_gradients import LabelsByConjugateGradients, LabelsFromGradients
from splitlearn.attacks.nearest import NearestEmbedding
from splitlearn.attacks.plan import AttackPlan
from splitlearn.attacks.prefix_search import PrefixSearch
from splitlearn.attacks.ranking import Ranker, RankingAttack, seeded
from splitlearn.attacks.responses import ReadResponses
from splitlearn.attacks.result import AttackResult, Baseline, Reconstruction
from splitlearn.attacks.ridge import RidgeMap
from splitlearn.attacks.running import AttackReport, LeftOut, Watch, run_attacks
from splitlearn.attacks.scores import NO_GUESS, rouge_l, token_recovery
from splitlearn.attacks.scoring import score
from splitlearn.attacks.texts import DEFAULT_TOKENS, AttackTexts, divide_texts, token_overlap
from splitlearn.attacks.view import BACKWARD, FORWARD, AttackerView, Pieces, PublicModel

__all__ = [
    "AVERAGING",
    "BACKWARD",
    "DEFAULT_TOKENS",
    "FORWARD",
    "NO_GUESS",
    "Attack",
    "AttackPlan",
    "AttackReport",
    "AttackResult",
    "AttackTexts",
    "AttackerView",
    "BagOfTokens",
    "Baseline",
    "Budget",
    "BudgetMeter",
    "BudgetUse",
    "EmbeddingGradients",
    "LabelsByConjugateGradients",
    "LabelsFromGradients",
    "LeftOut",
    "MlpInverter",
    "NearestEmbedding",
    "Pieces",
    "PrefixSearch",
    "PublicModel",
    "Ranker",
    "RankingAttack",
    "ReadResponses",
    "Reconstruction",
    "RidgeMap",
    "TrainedInverter",
    "TransformerInverter",
    "Watch",
    "collect",
    "collect_embedding_gradients",
    "collect_responses",
    "divide_texts",
    "measure_baseline",
    "rouge_l",
    "run_attacks",
    "score",
    "seeded",
    "token_overlap",
    "token_recovery",
]
