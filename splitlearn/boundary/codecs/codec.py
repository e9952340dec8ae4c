"""The interface of a codec, and what it is told about the tensor that crosses.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from splitlearn.boundary.calls import CallKind
from splitlearn.randomness import default_generators

# The buffers that are sent, by name. Their sizes are the bytes that are counted.
Columns = dict[str, torch.Tensor]
# Each class enters itself as it is defined.
CLASSES: dict[str, type[Codec]] = {}


def _default_generator(device: torch.device) -> torch.Generator:
    return default_generators(device)[-1]


@dataclass(frozen=True, eq=False)
class CodecContext:
    """What both ends know of a tensor that crosses, beside its encoding.

    Attributes:
        kind: purpose of the call.
        cut: ``"cut_1"`` or ``"cut_2"``.
        payload: ``"activation"`` or ``"gradient"``.
        shape: the tensor's shape before it was encoded: (B, T, D) for smashed data and their gradients.
        place: 0 for smashed data and their gradients; recorded outputs, such as router logits, have the places from 1 on.
        generator: gives the generator for noise on a device. Only the sender draws from it.
        rows_B: ids of the batch's examples, shape (B). They are the same in every epoch; None if the data have none.
        attention_mask: the parcel's mask in the form in which the model takes it; None if there is none.
    """

    kind: CallKind
    cut: str
    payload: str
    shape: torch.Size
    place: int = 0
    generator: Callable[[torch.device], torch.Generator] = _default_generator
    rows_B: torch.Tensor | None = None
    attention_mask: Any = None

    @property
    def token_mask(self) -> torch.Tensor | None:
        """True for real tokens and False for padding, shape (B, T); None if nothing tells them apart."""
        mask = self.attention_mask
        if self.place or not isinstance(mask, torch.Tensor) or mask.dim() != 2 or len(self.shape) != 3:
            return None
        # A mask has the cached tokens first.
        return mask[:, -self.shape[1] :] != 0


class Codec(ABC):
    """One encoding of a tensor that crosses a cut.

    A subclass sets ``name``, by which settings find it; the arguments of its ``__init__`` are the settings that it takes.
    Autograd does not see a codec: the gradient of the decoded tensor is passed on as that of the tensor that was encoded
    (straight-through). Each cut and direction has an object of its own, so one may keep state; both ends use the same object in
    one process, and one each in two.

    Attributes:
        name: the codec's name in settings.
        is_exact: whether decoded tensors equal the encoded ones to the bit.
        takes_error_feedback: whether its error may be carried on; False for codecs that add noise or keep state.
        sizes_depend_on_data: whether how many bytes it makes of a tensor depends on more than its shape and dtype. Others are
            planned with tensors that have no memory.
        needs_examples: whether it needs ids of the examples in training.
    """

    name: str
    is_exact: bool = False
    takes_error_feedback: bool = True
    sizes_depend_on_data: bool = False
    needs_examples: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Compositions get their names from what they are made of.
        if vars(cls).get("name"):
            _register(cls)

    @abstractmethod
    def encode(self, tensor: torch.Tensor, context: CodecContext) -> Columns:
        """Return the buffers to send.

        Args:
            tensor: floating-point, without gradients; any shape, with the numbers of one token in the last dimension.
            context: what both ends know of it.
        """

    @abstractmethod
    def decode(self, columns: Columns, dtype: torch.dtype, context: CodecContext) -> torch.Tensor:
        """Return the tensor that the receiver goes on with.

        Args:
            columns: from `encode`, on the receiver's device.
            dtype: of the tensor that was encoded, and of the result.
            context: as the sender's.

        Returns:
            A tensor of ``context.shape``.
        """

    def next_width(self, width: int) -> int | None:
        """Return how many numbers of a token the column ``values`` holds, if another codec may encode them further.

        Args:
            width: how many numbers of a token this codec is given (D).

        Returns:
            None if none may follow: ``values`` are no floating-point numbers, or mean something else.
        """
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what the codec remembers from call to call, as tensors and plain values; empty if nothing."""
        return {}

    def receiver_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the receiver remembers, too, of what the sender does; it is sent to the receiver as a run goes on.

        Args:
            state: the sender's `state_dict`.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Args:
            state: tensors and plain values.

        Raises:
            ValueError: it is of another codec.
        """
        if state:
            raise ValueError(f"the codec {self.name} keeps no state, but is given {', '.join(map(str, state))}")


def _register(codec: type[Codec]) -> None:
    """Enter a codec under its name.

    Raises:
        ValueError: another class has the name.
    """
    known = CLASSES.get(codec.name, codec)
    if (known.__module__, known.__qualname__) != (codec.__module__, codec.__qualname__):
        raise ValueError(
            f"the codec {codec.__module__}.{codec.__qualname__} is named {codec.name!r}, as "
            f"{known.__module__}.{known.__qualname__} is; give it another name"
        )
    # A module that is loaded again, as in a notebook, brings the class anew.
    CLASSES[codec.name] = codec
