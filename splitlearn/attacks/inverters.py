"""Networks that are trained to invert what crossed.

Shapes: N pieces of text, T tokens, D features, E width of the embedding, R ranked tokens, K candidates.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import nn
from torch.nn.functional import cross_entropy, gelu, normalize

from splitlearn.attacks.budget import BudgetMeter
from splitlearn.attacks.features import Standardizer
from splitlearn.attacks.ranking import Ranker, RankingAttack
from splitlearn.attacks.regression import Moments
from splitlearn.attacks.view import AttackerView, Pieces

# Wrong tokens that compete with the right ones in a step; all of them would take most of the time.
_NUM_COMPETING = 2048
# Of the penalty of the linear map from which a network starts, as a share of the features' mean square.
_STRENGTH = 1e-3


class TokenMlp(nn.Module):
    """Inverts each position by itself: a linear map plus a network with one hidden layer.

    Args:
        width: number of features D.
        embedding_width: width E of the vectors that it returns.
        hidden: width of the hidden layer; 1,152 makes 1.7 M parameters at D = E = 576.
    """

    def __init__(self, width: int, embedding_width: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, embedding_width)
        self.enter = nn.Linear(width, hidden)
        self.leave = nn.Linear(hidden, embedding_width)

    def forward(self, features_NTD: torch.Tensor) -> torch.Tensor:
        """Return vectors (N, T, E) for features (N, T, D)."""
        vectors_NTE: torch.Tensor = self.linear(features_NTD) + self.leave(gelu(self.enter(features_NTD)))
        return vectors_NTE


class PieceTransformer(nn.Module):
    """Inverts a whole piece, each position with a look at all the others.

    Args:
        width: number of features D.
        embedding_width: width E of the vectors that it returns.
        num_tokens: tokens T of the longest piece.
        hidden: its own width; 384 with 3 layers makes 6 M parameters at D = E = 576.
        num_layers: its layers.
    """

    def __init__(self, width: int, embedding_width: int, num_tokens: int, hidden: int, num_layers: int) -> None:
        super().__init__()
        self.enter = nn.Linear(width, hidden)
        self.positions_TH = nn.Parameter(0.02 * torch.randn(num_tokens, hidden))
        heads = max(1, hidden // 64)
        layer = nn.TransformerEncoderLayer(hidden, heads, 4 * hidden, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.leave = nn.Linear(hidden, embedding_width)
        self.linear = nn.Linear(width, embedding_width)

    def forward(self, features_NTD: torch.Tensor) -> torch.Tensor:
        """Return vectors (N, T, E) for features (N, T, D)."""
        hidden_NTH = self.enter(features_NTD) + self.positions_TH[: features_NTD.shape[1]]
        vectors_NTE: torch.Tensor = self.leave(self.layers(hidden_NTH)) + self.linear(features_NTD)
        return vectors_NTE


class TrainedInverter(RankingAttack):
    """Trains a network on the auxiliary pieces, to tell their tokens from what crossed.

    Its vectors are compared with the rows of the public embedding, so that it also finds tokens it has never seen. Without one
    it learns a row for each auxiliary token. It starts as the linear map in closed form, which little time makes better. An
    attacker of defended data trains on data that crossed under the same defence.

    Args:
        epochs: passes over the auxiliary pieces.
        batch_size: pieces of an optimizer step.
        learning_rate: its highest value; it falls to 0 along a cosine, whichever limit ends the training.
    """

    def __init__(self, epochs: int = 5, batch_size: int = 16, learning_rate: float = 2e-3) -> None:
        super().__init__()
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate

    @abstractmethod
    def make_network(self, width: int, embedding_width: int, num_tokens: int) -> TokenMlp | PieceTransformer:
        """Return the network, untrained.

        Args:
            width: number of features D.
            embedding_width: width E of the vectors that it returns.
            num_tokens: tokens T of a piece.
        """

    def fit(self, view: AttackerView, meter: BudgetMeter) -> Ranker:
        """Train the network; see `RankingAttack.fit`."""
        own = view.auxiliary.first(meter.take_pieces(len(view.auxiliary)))
        standardize = Standardizer.fit(own.crossed_NTD)
        moments = Moments.measure(own, standardize)
        head = _Head(moments, None if view.public is None else view.public_rows(self.name))
        width = standardize(own.crossed_NTD[:1]).shape[-1]
        network = self.make_network(width, head.embedding_width, max(own.ids_NT.shape[1], view.test.ids_NT.shape[1]))
        head.start(network, moments)
        # What crossed stays in main memory, and a batch of it is moved at a time.
        device = torch.device("cpu") if view.public is None else view.public.device
        network, head, standardize = network.to(device), head.to(device), standardize.to(device)
        self._train(network, head, own, standardize, meter)
        network.eval()

        def project(crossed_NTD: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                pieces = crossed_NTD.split(self.batch_size)
                return torch.cat([network(standardize(piece.to(device))) for piece in pieces])

        return Ranker(project, head.directions(), head.ids_R)

    def _train(self, network: nn.Module, head: _Head, own: Pieces, standardize: Standardizer, meter: BudgetMeter) -> None:
        parameters = [parameter for module in (network, head) for parameter in module.parameters()]
        optimizer = torch.optim.AdamW(parameters, self.learning_rate, weight_decay=0.01)
        total_steps = self.epochs * math.ceil(len(own) / self.batch_size)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(own)).split(self.batch_size):
                if not meter.take_step():
                    return
                _set_learning_rate(optimizer, self.learning_rate, meter.progress(total_steps))
                mask_NT = None if own.mask_NT is None else own.mask_NT[rows]
                vectors_NTE = network(standardize(own.crossed_NTD[rows].to(standardize.centre_D.device)))
                loss = head.loss(vectors_NTE, own.ids_NT[rows], mask_NT)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()


class MlpInverter(TrainedInverter):
    """The per-token network: fast to train, and nearly as good as any.

    Args:
        hidden: width of the hidden layer.
        epochs: as for `TrainedInverter`.
        batch_size: as for `TrainedInverter`.
        learning_rate: as for `TrainedInverter`.
    """

    name = "mlp"

    def __init__(self, hidden: int = 1152, epochs: int = 5, batch_size: int = 16, learning_rate: float = 2e-3) -> None:
        super().__init__(epochs, batch_size, learning_rate)
        self.hidden = hidden

    def make_network(self, width: int, embedding_width: int, num_tokens: int) -> TokenMlp:
        """Return a `TokenMlp`."""
        return TokenMlp(width, embedding_width, self.hidden)


class TransformerInverter(TrainedInverter):
    """The small transformer: better at deep cuts, where positions have mixed.

    Args:
        hidden: its width.
        num_layers: its layers.
        epochs: as for `TrainedInverter`.
        batch_size: as for `TrainedInverter`.
        learning_rate: as for `TrainedInverter`.
    """

    name = "transformer"

    def __init__(
        self, hidden: int = 384, num_layers: int = 3, epochs: int = 5, batch_size: int = 16, learning_rate: float = 2e-3
    ) -> None:
        super().__init__(epochs, batch_size, learning_rate)
        self.hidden = hidden
        self.num_layers = num_layers

    def make_network(self, width: int, embedding_width: int, num_tokens: int) -> PieceTransformer:
        """Return a `PieceTransformer`."""
        return PieceTransformer(width, embedding_width, num_tokens, self.hidden, self.num_layers)


class _Head(nn.Module):
    """Scores of tokens: the cosine with each token's row, times a learned factor."""

    _rows_RE: torch.Tensor

    def __init__(self, moments: Moments, rows_VE: torch.Tensor | None) -> None:
        super().__init__()
        self.ids_R: torch.Tensor | None = None
        self._factor = nn.Parameter(torch.tensor(math.log(20.0)))
        if rows_VE is None:
            self.ids_R = moments.ids_C
            self._rows_RE = nn.Parameter(normalize(moments.discriminant(_STRENGTH)[0][:, :-1], dim=-1))
        else:
            self.register_buffer("_rows_RE", normalize(rows_VE, dim=-1))
        # The rows of the auxiliary tokens.
        self._auxiliary_C = moments.ids_C if self.ids_R is None else torch.arange(len(self.ids_R))

    @torch.no_grad()
    def start(self, network: TokenMlp | PieceTransformer, moments: Moments) -> None:
        """Have a network begin as the linear map: to the public embedding, or of features to themselves."""
        nn.init.zeros_(network.leave.weight)
        nn.init.zeros_(network.leave.bias)
        if self.ids_R is None:
            # Numbers of about 1, as a layer's are.
            map_DE = moments.map_to(self._rows_RE * self.embedding_width**0.5, _STRENGTH)
            network.linear.weight.copy_(map_DE[:-1].T)
            network.linear.bias.copy_(map_DE[-1])
        else:
            nn.init.eye_(network.linear.weight)
            nn.init.zeros_(network.linear.bias)

    @property
    def embedding_width(self) -> int:
        return self._rows_RE.shape[1]

    def directions(self) -> torch.Tensor:
        """Return the rows at length 1, shape (R, E)."""
        return normalize(self._rows_RE.detach(), dim=-1)

    def loss(self, vectors_NTE: torch.Tensor, ids_NT: torch.Tensor, mask_NT: torch.Tensor | None) -> torch.Tensor:
        """Return the cross-entropy of the right tokens among those of the batch and some others."""
        vectors_ME = vectors_NTE.flatten(0, 1) if mask_NT is None else vectors_NTE[mask_NT]
        ids_M = ids_NT.flatten() if mask_NT is None else ids_NT[mask_NT]
        rows_M = ids_M if self.ids_R is None else torch.searchsorted(self.ids_R, ids_M)
        candidates_K = self._candidates(rows_M)
        candidate_rows_KE = normalize(self._rows_RE[candidates_K.to(self._rows_RE.device)], dim=-1)
        scores_MK = self._factor.exp() * (normalize(vectors_ME, dim=-1) @ candidate_rows_KE.T)
        return cross_entropy(scores_MK, torch.searchsorted(candidates_K, rows_M).to(scores_MK.device))

    def _candidates(self, rows_M: torch.Tensor) -> torch.Tensor:
        """Return the batch's tokens, tokens of the auxiliary texts and any others, as sorted numbers of rows."""
        num_rows = len(self._rows_RE)
        if num_rows <= _NUM_COMPETING:
            return torch.arange(num_rows)
        auxiliary = self._auxiliary_C[torch.randint(len(self._auxiliary_C), (_NUM_COMPETING // 2,))]
        any_tokens = torch.randint(num_rows, (_NUM_COMPETING // 2,))
        return torch.cat([rows_M, auxiliary, any_tokens]).unique()


def _set_learning_rate(optimizer: torch.optim.Optimizer, highest: float, progress: float) -> None:
    # A short rise, since Adam's first steps are as long as any.
    rise = min(1.0, progress / 0.05 + 0.05)
    for group in optimizer.param_groups:
        group["lr"] = highest * rise * (1 + math.cos(math.pi * progress)) / 2
