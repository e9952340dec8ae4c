"""Labels from the gradients of the smashed data, as the party below a cut gets them back.

The loss of a position is the cross-entropy of its logits with the next token y. Its gradient at the head's input is
``sum_v p_v s_v W_v - s_y W_y``, divided by the number of supervised tokens: p are the model's probabilities, W the head's rows
and s the slopes of its logits, 1 for most models. The gradient at the cut is this times the transposed Jacobian of the layers
between. An attacker with public weights knows all but y: it has sent the smashed data itself.

Whatever multiplies all gradients alike changes nothing, since directions are compared: the number of supervised tokens, a scale
of the loss, the division by accumulated batches. Accumulation adds up the gradients of weights and not these, so each
micro-batch shows its own labels. Clipping acts on gradients of weights, too.

Shapes: N pieces of text, T tokens, D hidden size, V vocabulary size.
"""

from __future__ import annotations

from abc import abstractmethod

import torch

from splitlearn.attacks.attack import Attack
from splitlearn.attacks.budget import Budget, BudgetMeter
from splitlearn.attacks.least_squares import Product, solve_least_squares
from splitlearn.attacks.public_top import HeadCall, HeadJacobian, PublicTop
from splitlearn.attacks.result import AttackResult
from splitlearn.attacks.scoring import score
from splitlearn.attacks.view import BACKWARD, AttackerView, Pieces

# Most logits in memory at a time; several tensors of this size are needed.
_MOST_LOGITS = 2**23


class _LabelAttack(Attack):
    """The common part of both attacks: estimate the gradients at the head's input, then take the label that fits each best."""

    def run(self, view: AttackerView, budget: Budget, rng: torch.Generator) -> AttackResult:
        """Find the next token of each supervised position of the test pieces.

        Raises:
            ValueError: the view is of smashed data, the weights above the cut are not public, or autograd cannot differentiate
                layers twice where that is needed.
        """
        test, labels_NT = view.test, view.test.labels_NT
        if view.direction != BACKWARD or labels_NT is None:
            raise ValueError(f"the attack {self.name} needs gradients")
        meter, top = budget.start(), PublicTop(view)
        found = [test.ids_NT[:0]]
        step = max(1, _MOST_LOGITS // (test.ids_NT.shape[1] * view.vocab_size))
        with torch.inference_mode(False), torch.enable_grad():
            for start in range(0, len(test), step):
                if not meter.take_step():
                    break
                found.append(self._find(top, test.between(start, start + step), meter, rng))
        found_NT = torch.cat(found)
        truth_NT, mask_NT = next_labels(labels_NT[: len(found_NT)])
        return score(
            self.name,
            view,
            found_NT,
            meter.use(),
            base_weights_public=True,
            truth_NT=truth_NT,
            mask_NT=mask_NT,
            is_next_token=True,
        )

    def _find(self, top: PublicTop, pieces: Pieces, meter: BudgetMeter, rng: torch.Generator) -> torch.Tensor:
        """Return the labels that fit the gradients of some pieces best, shape (N, T)."""
        if pieces.smashed_NTD is None:
            raise ValueError(f"the attack {self.name} needs the smashed data that the gradients are of")
        smashed_NTD = pieces.smashed_NTD.to(top.device, torch.float32).requires_grad_()
        call = top.call(smashed_NTD, pieces.mask_NT)
        jacobian = HeadJacobian(smashed_NTD, call.input_NTD)
        # Gradients are smaller by orders of magnitude where hidden states are large; equations of one size weigh alike.
        scale_NT1 = _scales(jacobian, rng)

        width_D = _widths(jacobian, scale_NT1, rng)

        def pull(change_NTD: torch.Tensor) -> torch.Tensor:
            return jacobian.pull(change_NTD / width_D) * scale_NT1

        def push(change_NTD: torch.Tensor) -> torch.Tensor:
            return jacobian.push(change_NTD * scale_NT1) / width_D

        target_NTD = pieces.crossed_NTD.to(jacobian.device, torch.float32) * scale_NT1
        return best_labels(call, self._estimate(pull, push, target_NTD, meter) / width_D).cpu()

    @abstractmethod
    def _estimate(self, pull: Product, push: Product, target_NTD: torch.Tensor, meter: BudgetMeter) -> torch.Tensor:
        """Return the gradients at the head's input up to a factor, shape (N, T, D).

        Args:
            pull: goes from gradients at the head's input to those of the smashed data.
            push: its transpose.
            target_NTD: the gradients of the smashed data.
            meter: is asked before each step.
        """


class LabelsFromGradients(_LabelAttack):
    """Labels in closed form: gradients at the cut are taken for those at the head's input, but for the size of each channel.

    Layers add to what they are given, so gradients pass most of them as they are. The more layers lie between cut and head, the
    less is that so.
    """

    name = "labels"

    def _estimate(self, pull: Product, push: Product, target_NTD: torch.Tensor, meter: BudgetMeter) -> torch.Tensor:
        return target_NTD


class LabelsByConjugateGradients(_LabelAttack):
    """Labels by solving for the gradients at the head's input with conjugate gradients, without ever holding the Jacobian.

    Args:
        iterations: the most steps for each group of pieces; each takes two backward passes of the public top.
    """

    name = "labels_cg"

    def __init__(self, iterations: int = 60) -> None:
        self._iterations = iterations

    def _estimate(self, pull: Product, push: Product, target_NTD: torch.Tensor, meter: BudgetMeter) -> torch.Tensor:
        return solve_least_squares(pull, push, target_NTD, self._iterations, meter.take_step)


def best_labels(call: HeadCall, gradient_NTD: torch.Tensor) -> torch.Tensor:
    """Return for each position the label whose gradient at the head's input has the direction of a given one.

    All tokens of the vocabulary are candidates.

    Args:
        call: the pass through the public top.
        gradient_NTD: gradients at the head's input, up to a positive factor, shape (N, T, D).

    Returns:
        Token ids, shape (N, T).
    """
    weight_VD, slope_NTV = call.weight_VD, call.slope_NTV
    # The gradient of label v is a - s_v W_v, with a common to all labels.
    common_NTD = (call.logits_NTV.softmax(dim=-1) * slope_NTV) @ weight_VD
    along_NTV = (common_NTD * gradient_NTD).sum(dim=-1, keepdim=True) - slope_NTV * (gradient_NTD @ weight_VD.T)
    squares_NTV = common_NTD.square().sum(dim=-1, keepdim=True) - 2 * slope_NTV * (common_NTD @ weight_VD.T)
    squares_NTV = squares_NTV + slope_NTV.square() * weight_VD.square().sum(dim=-1)
    smallest = torch.finfo(squares_NTV.dtype).tiny
    return (along_NTV / squares_NTV.clamp(min=smallest).sqrt()).argmax(dim=-1)


def next_labels(labels_NT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the label that each position is to predict, and which positions have one.

    Args:
        labels_NT: labels as the model takes them, -100 where there is none, shape (N, T).

    Returns:
        Token ids and a mask, both (N, T).
    """
    next_NT = torch.cat([labels_NT[:, 1:], torch.full_like(labels_NT[:, :1], -100)], dim=1)
    return next_NT, next_NT != -100


def _widths(jacobian: HeadJacobian, scale_NT1: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Return about how much each channel is stretched between cut and head, mostly by the last norm's weights, shape (D,)."""
    pulled_NTD = jacobian.pull(_probe(jacobian, rng)) * scale_NT1
    return pulled_NTD.square().mean(dim=(0, 1)).sqrt().clamp(min=torch.finfo(torch.float32).tiny)


def _scales(jacobian: HeadJacobian, rng: torch.Generator) -> torch.Tensor:
    """Return for each position about how much larger gradients are at the head's input than at the cut, shape (N, T, 1)."""
    probe_NTD = _probe(jacobian, rng)
    pulled_NT1 = jacobian.pull(probe_NTD).norm(dim=-1, keepdim=True)
    # Positions that nothing above depends on, such as padding, have no gradient at all.
    return torch.where(pulled_NT1 > 0, probe_NTD.norm(dim=-1, keepdim=True) / pulled_NT1, torch.zeros_like(pulled_NT1))


def _probe(jacobian: HeadJacobian, rng: torch.Generator) -> torch.Tensor:
    """Return random gradients at the head's input, shape (N, T, D)."""
    return torch.randn(jacobian.shape, generator=rng, device=rng.device).to(jacobian.device)
