"""Recording what crosses a cut while text is generated.

Shapes: N pieces of text, T tokens, P tokens of a prompt, D hidden size.
"""

from __future__ import annotations

import torch

from splitlearn.attacks.rehearsing import rehearsing
from splitlearn.attacks.view import Pieces
from splitlearn.boundary import BoundaryObserver, CallKind, Parcel
from splitlearn.model import ComposedCausalLM

# Marks positions without a label.
_NOTHING = -100


def collect_responses(
    model: ComposedCausalLM, prompts_NP: torch.Tensor, cut: int, num_tokens: int, *, seed: int = 0, batch_size: int = 8
) -> Pieces:
    """Have a model answer prompts by greedy decoding, and record the smashed data that cross a cut meanwhile.

    They are recorded as the receiver gets them, after codec and noise, and nothing of the model changes.

    Args:
        model: the model.
        prompts_NP: token ids, shape (N, P).
        cut: 1 or 2.
        num_tokens: tokens of a response.
        seed: seed of the codecs' noise.
        batch_size: prompts that are answered at once.

    Returns:
        Prompts with responses, N pieces of P + ``num_tokens`` tokens. Labels are the tokens of the response, and -100 in the
        prompt and behind a response that ended early.

    Raises:
        ValueError: nothing crosses there, another process holds a part, or the model cannot generate as it is cut.
    """
    if not model.boundaries[cut - 1].route.is_crossed:
        raise ValueError(f"nothing crosses cut {cut}: the parts on both sides are one party's")
    elsewhere = [part.spec.name for part in model.parts if part.is_elsewhere]
    if elsewhere:
        # What a server generates with is its own, and not a trial.
        raise ValueError(f"responses are generated with parts of this process, and another holds the {' and '.join(elsewhere)}")
    num_prompt_tokens, ids, crossed = prompts_NP.shape[1], [], []
    with rehearsing(model, seed) as rehearsal, torch.no_grad():
        recorder = _Recorder()
        rehearsal.boundaries[cut - 1].observers.append(recorder)
        for prompts_BP in prompts_NP.split(batch_size):
            recorder.received = []
            answered_BT = rehearsal.generate(
                prompts_BP,
                attention_mask=torch.ones_like(prompts_BP),
                # The last token that is generated is not run through the model, so nothing crosses for it.
                max_new_tokens=num_tokens + 1,
                do_sample=False,
            )
            num_crossed = answered_BT.shape[1] - 1
            ids.append(_lengthened(answered_BT[:, :num_crossed].cpu(), num_prompt_tokens + num_tokens, _NOTHING))
            crossed.append(_lengthened(recorder.joined(num_crossed), num_prompt_tokens + num_tokens, 0))
    labels_NT = torch.cat(ids)
    ids_NT = labels_NT.clamp(min=0)
    labels_NT[:, :num_prompt_tokens] = _NOTHING
    labels_NT[_is_behind_end(labels_NT, _end_tokens(model))] = _NOTHING
    return Pieces(ids_NT, torch.cat(crossed), labels_NT)


class _Recorder(BoundaryObserver):
    def __init__(self) -> None:
        self.received: list[torch.Tensor] = []

    def on_receive(self, cut: int, kind: CallKind, parcel: Parcel) -> None:
        self.received.append(parcel.hidden_BTD.detach().float().cpu())

    def joined(self, num_tokens: int) -> torch.Tensor:
        """Return the smashed data of the first tokens; without a cache each call has crossed with all tokens so far."""
        last = self.received[-1]
        whole = last if last.shape[1] >= num_tokens else torch.cat(self.received, dim=1)
        return whole[:, :num_tokens]


def _lengthened(rows: torch.Tensor, length: int, filling: int) -> torch.Tensor:
    """Return rows (B, T, ...) with further positions at their end, (B, ``length``, ...)."""
    missing = rows.new_full((rows.shape[0], length - rows.shape[1], *rows.shape[2:]), filling)
    return torch.cat([rows, missing], dim=1)


def _end_tokens(model: ComposedCausalLM) -> torch.Tensor:
    config = model.bottom.blueprint.generation_config
    ends = None if config is None else config.eos_token_id
    return torch.tensor(ends if isinstance(ends, list) else [] if ends is None else [ends], dtype=torch.long)


def _is_behind_end(labels_NT: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Whether a response ended at an earlier token: what follows in a row that others outlast is padding."""
    is_end_NT = torch.isin(labels_NT, ends).long()
    return is_end_NT.cumsum(dim=1) - is_end_NT > 0
