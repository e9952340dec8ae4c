"""What an attacker sees.

Shapes: N pieces of text, T tokens, D hidden size, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import nn

from splitlearn.boundary import CUT_NAMES
from splitlearn.model import ComposedCausalLM, SplitModel, evaluating

# Which way the recorded tensors crossed the cut: smashed data go forward, their gradients backward.
FORWARD, BACKWARD = "forward", "backward"
# Test pieces on which the public language model guesses; it takes a run of the whole model.
_NUM_GUESSED = 16


@dataclass(frozen=True, eq=False)
class Pieces:
    """Pieces of text of one length, with the tensors that crossed a cut when the model ran on them.

    Attributes:
        ids_NT: token ids, shape (N, T). Those of test pieces are the truth that guesses are scored by; no attack reads them.
        crossed_NTD: smashed data or their gradients as the receiver gets them, shape (N, T, D); float16 or float32.
        labels_NT: the labels of the loss whose gradients crossed, shape (N, T), -100 where a position has none; None where
            smashed data were recorded. Of generated text they mark the response: its token ids, -100 in the prompt.
        mask_NT: True for real tokens, shape (N, T); None if all are.
        smashed_NTD: beside gradients, the smashed data that they are gradients of, as the receiver of the gradients has sent
            them; shape (N, T, D). None where smashed data were recorded.
    """

    ids_NT: torch.Tensor
    crossed_NTD: torch.Tensor
    labels_NT: torch.Tensor | None = None
    mask_NT: torch.Tensor | None = None
    smashed_NTD: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.ids_NT.shape != self.crossed_NTD.shape[:2]:
            ids, crossed = tuple(self.ids_NT.shape), tuple(self.crossed_NTD.shape)
            raise ValueError(f"token ids of shape {ids} do not fit crossed tensors of shape {crossed}")

    def __len__(self) -> int:
        return len(self.ids_NT)

    def first(self, count: int) -> Pieces:
        """Return the first pieces.

        Args:
            count: how many.
        """
        return self.between(0, count)

    def between(self, start: int, stop: int) -> Pieces:
        """Return some pieces in a row.

        Args:
            start: the number of the first.
            stop: one past the number of the last.
        """
        further = (self.labels_NT, self.mask_NT, self.smashed_NTD)
        return Pieces(
            self.ids_NT[start:stop],
            self.crossed_NTD[start:stop],
            *(None if tensor is None else tensor[start:stop] for tensor in further),
        )


@dataclass(frozen=True, eq=False)
class PublicModel:
    """The weights that the attacker has, usually the base model's; those of a fine-tuned model are the parties' own.

    Attributes:
        embedding_VD: the rows of the token embedding as they enter the first layer, shape (V, D).
        bottom: the part below cut 1; None if it is not public.
        trunk: the part between the cuts.
        top: the part above cut 2, with final norm and head.
    """

    embedding_VD: torch.Tensor
    bottom: SplitModel | None = None
    trunk: SplitModel | None = None
    top: SplitModel | None = None

    @classmethod
    def of(cls, model: ComposedCausalLM) -> PublicModel:
        """Return all weights of a model, as an attacker has them who knows the base model.

        Args:
            model: the base model; its weights are shared, not copied.
        """
        embedding = model.bottom.model.get_input_embeddings()
        weight_VD = cast(torch.Tensor, embedding.weight)
        with torch.no_grad(), torch.inference_mode(False):
            # Called rather than read, since some architectures scale the rows.
            rows_VD = embedding(torch.arange(len(weight_VD), device=weight_VD.device))
        return cls(rows_VD.detach().float().cpu(), *model.parts)

    @property
    def device(self) -> torch.device:
        """Where the lowest public part is; the CPU if none is public."""
        return next((part.device for part in (self.bottom, self.trunk, self.top) if part is not None), torch.device("cpu"))

    def next_tokens(self, ids_NT: torch.Tensor, mask_NT: torch.Tensor | None = None) -> torch.Tensor | None:
        """Return the language model's guess of the token after each position, shape (N, T); None if a part is not public.

        Args:
            ids_NT: token ids, shape (N, T).
            mask_NT: True for real tokens, shape (N, T); None if all are.
        """
        parts = _all_or_none((self.bottom, self.trunk, self.top))
        if not parts:
            return None
        arguments = {} if mask_NT is None else {"attention_mask": mask_NT.long()}
        with evaluating(nn.ModuleList(parts)), torch.no_grad():
            rows = []
            for start in range(len(ids_NT)):
                # One piece at a time: the logits of a large vocabulary take memory.
                values: Any = ids_NT[start : start + 1]
                for part in parts:
                    values = part(values, **{name: value[start : start + 1] for name, value in arguments.items()})
                rows.append(values.logits.argmax(dim=-1).cpu())
        return torch.cat(rows)

    def below(self, cut: int) -> tuple[SplitModel, ...]:
        """Return the public parts below a cut, in order; none if one of them is not public.

        Args:
            cut: 1 or 2.
        """
        return _all_or_none((self.bottom, self.trunk)[:cut])

    def above(self, cut: int) -> tuple[SplitModel, ...]:
        """Return the public parts above a cut, in order; none if one of them is not public.

        Args:
            cut: 1 or 2.
        """
        return _all_or_none((self.trunk, self.top)[cut - 1 :])


@dataclass(frozen=True, eq=False)
class AttackerView:
    """What an attacker sees of one cut in one direction, and what it knows beforehand.

    Attributes:
        cut: 1 or 2.
        direction: `FORWARD` (smashed data) or `BACKWARD` (their gradients).
        auxiliary: the attacker's own pieces of text, which it has sent through the model, or a defended copy, itself.
        validation: further pieces of its own, by which an attack may choose its settings.
        test: the others' pieces, which are to be recovered.
        vocab_size: number of token ids V.
        public: the weights that it has; None if no weights are public.
        decode: from token ids to text, for reconstructions and ROUGE-L; None leaves both out.

    Raises:
        ValueError: cut or direction is unknown.
    """

    cut: int
    direction: str
    auxiliary: Pieces
    validation: Pieces
    test: Pieces
    vocab_size: int
    public: PublicModel | None = None
    decode: Callable[[Sequence[int]], str] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.cut <= len(CUT_NAMES):
            raise ValueError(f"cut is {self.cut}; use 1 or 2")
        if self.direction not in (FORWARD, BACKWARD):
            raise ValueError(f"direction is {self.direction!r}; use {FORWARD!r} or {BACKWARD!r}")

    def public_rows(self, attack: str) -> torch.Tensor:
        """Return the public embedding in float32, shape (V, D).

        Args:
            attack: who needs it, for the message.

        Raises:
            ValueError: no weights are public.
        """
        if self.public is None:
            raise ValueError(f"{attack} needs the public embedding, and no weights are public")
        return self.public.embedding_VD.float()

    @cached_property
    def next_tokens(self) -> torch.Tensor | None:
        """The public language model's guess of the token after each position of the first test pieces, shape (K, T).

        None if the whole model is not public. It is worked out once for all attacks, as a figure to compare with.
        """
        if self.public is None:
            return None
        mask = self.test.mask_NT
        return self.public.next_tokens(self.test.ids_NT[:_NUM_GUESSED], None if mask is None else mask[:_NUM_GUESSED])


def _all_or_none(parts: Sequence[SplitModel | None]) -> tuple[SplitModel, ...]:
    public = tuple(part for part in parts if part is not None)
    return public if len(public) == len(parts) else ()
