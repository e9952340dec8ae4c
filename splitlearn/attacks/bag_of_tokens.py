"""The tokens of a batch, read off the gradient of the embedding: what a client would show whose part is averaged with others'.

Shapes: G batches, N pieces of text, T tokens, D hidden size, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from splitlearn.attacks.attack import Attack
from splitlearn.attacks.budget import Budget
from splitlearn.attacks.rehearsing import rehearsing
from splitlearn.attacks.result import AttackResult, Baseline, Reconstruction
from splitlearn.attacks.scores import Decode
from splitlearn.attacks.texts import token_overlap
from splitlearn.attacks.view import AttackerView
from splitlearn.boundary import CallKind
from splitlearn.model import ComposedCausalLM, find_ties

# Seen by whoever averages the clients' parts, and not at a cut.
AVERAGING = "averaging"


@dataclass(frozen=True, eq=False)
class EmbeddingGradients:
    """The size of each row of the embedding's gradient, for some batches.

    Attributes:
        ids: token ids of each batch, shape (N, T); the truth that guesses are scored by.
        norms_GV: the norm of each row, shape (G, V).
    """

    ids: tuple[torch.Tensor, ...]
    norms_GV: torch.Tensor


def collect_embedding_gradients(
    model: ComposedCausalLM, ids_NT: torch.Tensor, pieces_per_batch: int, *, seed: int = 0
) -> EmbeddingGradients:
    """Compute the gradient of the embedding for batches of text, as a training step would, and leave the model as it is.

    With a head that is tied to the embedding the gradient is the sum of both ends'.

    Args:
        model: the model.
        ids_NT: token ids, shape (N, T).
        pieces_per_batch: pieces of a batch; the last batch may have fewer.
        seed: seed of the codecs' noise.

    Raises:
        ValueError: the embedding has no weight that has gradients.
    """
    embedding = getattr(model.bottom.model.get_input_embeddings(), "weight", None)
    if not isinstance(embedding, torch.Tensor) or not embedding.is_floating_point():
        raise ValueError("the model's embedding has no rows of floating-point numbers, so it has no gradient that shows tokens")
    ends = [embedding]
    for tie in find_ties(model.parts):
        if tie.parameters[0] is embedding and not tie.is_shared:
            ends.append(tie.parameters[1])
    batches = ids_NT.split(pieces_per_batch)
    norms = []
    with rehearsing(model, seed) as rehearsal, _requiring_gradients(ends), torch.enable_grad():
        for ids_BT in batches:
            finished: Any = rehearsal.run(ids_BT, kind=CallKind.TRIAL, labels=ids_BT)
            gradients = torch.autograd.grad(finished.output.loss, ends)
            total_VD = sum((gradient.float().cpu() for gradient in gradients[1:]), gradients[0].float().cpu())
            norms.append(total_VD.norm(dim=-1))
    return EmbeddingGradients(batches, torch.stack(norms))


class BagOfTokens(Attack):
    """Takes the tokens whose rows of the gradient are not zero.

    A head that is tied to the embedding gives every row a gradient. Then the largest rows are taken, as many as batches of the
    attacker's own text have different tokens.

    Args:
        gradients: from `collect_embedding_gradients`, for the view's test pieces.
    """

    name = "bag_of_tokens"

    def __init__(self, gradients: EmbeddingGradients) -> None:
        self._gradients = gradients

    def run(self, view: AttackerView, budget: Budget, rng: torch.Generator) -> AttackResult:
        """Find the tokens of each batch.

        Its ``token_recovery`` is the share of the batches' tokens that are among those found. There is no order to score.
        """
        meter, gradients = budget.start(), self._gradients
        found, frequent = [], []
        by_frequency = torch.bincount(view.auxiliary.ids_NT.flatten(), minlength=view.vocab_size).argsort(descending=True)
        for ids_BT, norms_V in zip(gradients.ids, gradients.norms_GV, strict=True):
            if not meter.take_step():
                break
            found.append(_largest(norms_V, ids_BT, view.auxiliary.ids_NT))
            frequent.append(by_frequency[: len(found[-1])])
        truth = gradients.ids[: len(found)]
        return AttackResult(
            attack=self.name,
            cut=view.cut,
            direction=AVERAGING,
            token_recovery=_share_of_tokens(found, truth),
            rouge_l=None,
            by_position=(),
            budget=meter.use(),
            baseline=Baseline("as many of the most frequent tokens", _share_of_tokens(frequent, truth)),
            token_overlap=token_overlap(view.auxiliary.ids_NT, torch.cat([ids.flatten() for ids in gradients.ids])),
            num_pieces=sum(len(ids) for ids in truth),
            base_weights_public=False,
            reconstructions=tuple(_as_text(view.decode, *pair) for pair in zip(truth, found, strict=True))[:1]
            if view.decode is not None
            else (),
            details={
                "precision": _mean([_share_within(tokens, ids) for tokens, ids in zip(found, truth, strict=True)]),
                "recall": _mean([_share_within(ids.unique(), tokens) for tokens, ids in zip(found, truth, strict=True)]),
                "pieces_per_batch": max((len(ids) for ids in gradients.ids), default=0),
                "rows_with_gradient": _mean((gradients.norms_GV > 0).sum(dim=1).double().tolist()),
            },
        )


def _largest(norms_V: torch.Tensor, ids_BT: torch.Tensor, auxiliary_NT: torch.Tensor) -> torch.Tensor:
    """Return the tokens whose rows stand out in a gradient."""
    nonzero = norms_V.nonzero().flatten()
    # An embedding alone has gradients only for tokens of the batch, so for no more than it has positions.
    if len(nonzero) <= ids_BT.numel():
        return nonzero
    batches = auxiliary_NT.split(len(ids_BT))
    typical = round(sum(len(batch.unique()) for batch in batches) / len(batches))
    return norms_V.topk(typical).indices


def _share_of_tokens(found: Sequence[torch.Tensor], truth: Sequence[torch.Tensor]) -> float:
    counts = [(int(torch.isin(ids, tokens).sum()), ids.numel()) for tokens, ids in zip(found, truth, strict=True)]
    return sum(right for right, _ in counts) / max(sum(total for _, total in counts), 1)


def _share_within(some: torch.Tensor, others: torch.Tensor) -> float:
    return torch.isin(some, others).double().mean().item() if len(some) else 0.0


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _as_text(decode: Decode, ids_BT: torch.Tensor, tokens: torch.Tensor) -> Reconstruction:
    return Reconstruction(decode(ids_BT.unique().tolist()), decode(tokens.sort().values.tolist()))


@contextmanager
def _requiring_gradients(tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """Have tensors require gradients for a while, also frozen ones."""
    before = [tensor.requires_grad for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.requires_grad_()
        yield
    finally:
        for tensor, required in zip(tensors, before, strict=True):
            tensor.requires_grad_(required)
