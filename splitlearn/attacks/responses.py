"""The text that a client generates, read off what the server sends it.

Shapes: N pieces of text, T tokens, D hidden size, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from splitlearn.attacks.attack import Attack
from splitlearn.attacks.budget import Budget
from splitlearn.attacks.public_top import PublicTop
from splitlearn.attacks.result import AttackResult
from splitlearn.attacks.scores import NO_GUESS
from splitlearn.attacks.scoring import score
from splitlearn.attacks.view import FORWARD, AttackerView

_MOST_LOGITS = 2**24
_TOP_K = 5


class ReadResponses(Attack):
    """Runs the smashed data of generated text through a public top, as the client does, and takes the likeliest next tokens.

    The server has all smashed data from the prompt on, so it computes the client's logits. Greedy decoding with public weights
    is read without error at any cut. A fine-tuned top and sampling make it guess.
    """

    name = "responses"

    def run(self, view: AttackerView, budget: Budget, rng: torch.Generator) -> AttackResult:
        """Read the responses of the test pieces, which `collect_responses` records.

        Raises:
            ValueError: the view is of gradients, its pieces do not say which of their tokens were generated, or the weights
                above the cut are not public.
        """
        test = view.test
        if view.direction != FORWARD or test.labels_NT is None:
            raise ValueError(f"the attack {self.name} needs smashed data of generated text, with labels that mark the response")
        meter, top = budget.start(), PublicTop(view)
        step = max(1, _MOST_LOGITS // (test.ids_NT.shape[1] * view.vocab_size))
        guesses, near = [test.ids_NT[:0]], [test.ids_NT[:0].bool()]
        with torch.no_grad():
            for start in range(0, len(test), step):
                if not meter.take_step():
                    break
                pieces = test.between(start, start + step)
                logits_NTV = top.call(pieces.crossed_NTD.float(), pieces.mask_NT).logits_NTV.cpu()
                likeliest_NTK = logits_NTV.topk(min(_TOP_K, view.vocab_size), dim=-1).indices
                guesses.append(_from_before(likeliest_NTK[..., 0], NO_GUESS))
                is_near_NT = (likeliest_NTK[:, :-1] == pieces.ids_NT[:, 1:, None]).any(dim=-1)
                near.append(torch.cat([torch.zeros_like(is_near_NT[:, :1]), is_near_NT], dim=1))
        guess_NT, near_NT = torch.cat(guesses), torch.cat(near)
        mask_NT = test.labels_NT[: len(guess_NT)] != -100
        details: Mapping[str, float | int | str | None] = {
            f"token_recovery_top_{_TOP_K}": near_NT[mask_NT].double().mean().item() if mask_NT.any() else None
        }
        return score(self.name, view, guess_NT, meter.use(), base_weights_public=True, mask_NT=mask_NT, details=details)


def _from_before(next_NT: torch.Tensor, first: int) -> torch.Tensor:
    """Return the guess of each token, which is made at the token before it."""
    return torch.cat([torch.full_like(next_NT[:, :1], first), next_NT[:, :-1]], dim=1)
