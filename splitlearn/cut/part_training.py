"""Which tensors of a part are trained."""

from __future__ import annotations

from enum import StrEnum


class PartTraining(StrEnum):
    """Which tensors of a part are trained; settings, checkpoints and summaries hold the same words.

    Attributes:
        FULL: all weights.
        FROZEN: nothing.
        ADAPTERS: adapters beside the weights, which stay as they are.
        BIASES: biases alone.
        NORMS: weights and biases of norms alone.
        BIASES_AND_NORMS: both of these.
    """

    FULL = "full"
    FROZEN = "frozen"
    ADAPTERS = "adapters"
    BIASES = "biases"
    NORMS = "norms"
    BIASES_AND_NORMS = "biases_and_norms"

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise ValueError(f"the training of a part is {value!r}; use one of {', '.join(cls)}")

    @classmethod
    def settle(cls, setting: bool | str, has_adapters: bool, is_peft: bool) -> PartTraining:
        """Return the meaning of a part's setting ``train``.

        Args:
            setting: one of the words, True for adapters (or everything where no part has any), or False for nothing.
            has_adapters: whether the part has adapters.
            is_peft: whether any part has adapters: then weights stay frozen unless the setting is a word.

        Raises:
            ValueError: the setting is a word that is not known.
        """
        if isinstance(setting, str):
            return cls(setting)
        if not setting or (is_peft and not has_adapters):
            return cls.FROZEN
        return cls.ADAPTERS if has_adapters else cls.FULL

    @property
    def trains_anything(self) -> bool:
        """Whether the part has anything that changes."""
        return self is not PartTraining.FROZEN

    @property
    def trains_weights(self) -> bool:
        """Whether weights that the base checkpoint holds change, some or all."""
        return not self.keeps_base_weights

    @property
    def trains_all_weights(self) -> bool:
        """Whether every weight that the base checkpoint holds changes."""
        return self is PartTraining.FULL

    @property
    def keeps_base_weights(self) -> bool:
        """Whether all weights stay those of the base checkpoint."""
        return self in (PartTraining.FROZEN, PartTraining.ADAPTERS)

    @property
    def trains_biases(self) -> bool:
        """Whether the biases are chosen among the weights."""
        return self in (PartTraining.BIASES, PartTraining.BIASES_AND_NORMS)

    @property
    def trains_norms(self) -> bool:
        """Whether the norms are chosen among the weights."""
        return self in (PartTraining.NORMS, PartTraining.BIASES_AND_NORMS)
