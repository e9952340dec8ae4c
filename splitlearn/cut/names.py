"""Reading layer and part from a checkpoint's tensor names: pure rules, the same for every architecture.

The loader itself matches names against the model that transformers builds; these rules answer the same questions from an index
file alone.
"""

from __future__ import annotations

import re

# No model has more layers than nine digits say, and Python refuses to read numbers of thousands of digits.
_LAYER = re.compile(r"(?:^|\.)([0-9]{1,9})\.")
_HEAD = re.compile(r"(?:^|\.)(lm_head\.|(embed_out|output_projection|output|head|decoder)\.(weight|bias)$)")
_EMBEDDING = re.compile(r"(?:^|\.)\w*(embed|embd|wte|wpe)\w*\.")
_BEFORE_LAYERS = re.compile(r"(?:^|\.)(project_in|emb_norm|per_layer_\w+)\.")
# Lfm2's final norm is called after the embedding it shares its width with.
_AFTER_LAYERS = re.compile(r"(?:^|\.)(embedding_norm|\w*norm\w*|ln_\w+|project_out|hc_head|final_input)\.\w+$")
_NAMED_LIKE_AN_EMBEDDING = re.compile(r"(?:^|\.)embedding_norm\.")


class ParamMapper:
    """Which part of a causal LM a checkpoint tensor belongs to, by its name alone.

    Every method takes ``model_type``, because users of other loaders expect it; no rule needs it.
    """

    @staticmethod
    def get_layer_number(name: str, model_type: str | None = None) -> int | None:
        """Return the decoder layer that a tensor belongs to, or None outside the layers.

        The first whole-number component of a name is the layer: ``model.layers.3.mlp.experts.5.w1.weight`` is of layer 3.

        Args:
            name: the tensor's name in the checkpoint.
            model_type: ignored.
        """
        match = _LAYER.search(name)
        # Encoders of images or sound inside an embedding have layers of their own.
        return int(match.group(1)) if match and not _EMBEDDING.search(name[: match.start() + 1]) else None

    @staticmethod
    def is_lm_head(name: str, model_type: str | None = None) -> bool:
        """Whether a tensor is the language-model head's weight or bias.

        Args:
            name: the tensor's name in the checkpoint.
            model_type: ignored.
        """
        return ParamMapper.get_layer_number(name) is None and _HEAD.search(name) is not None

    @staticmethod
    def is_embedding(name: str, model_type: str | None = None) -> bool:
        """Whether a tensor acts on tokens before the first layer: token and position embeddings, their norm and projection.

        Args:
            name: the tensor's name in the checkpoint.
            model_type: ignored.
        """
        if ParamMapper.get_layer_number(name) is not None or ParamMapper.is_lm_head(name):
            return False
        if _NAMED_LIKE_AN_EMBEDDING.search(name):
            return False
        return _EMBEDDING.search(name) is not None or _BEFORE_LAYERS.search(name) is not None

    @staticmethod
    def is_final_norm(name: str, model_type: str | None = None) -> bool:
        """Whether a tensor acts after the last layer and before the head: the final norm, or a projection beside it.

        Args:
            name: the tensor's name in the checkpoint.
            model_type: ignored.
        """
        if ParamMapper.get_layer_number(name) is not None or ParamMapper.is_embedding(name) or ParamMapper.is_lm_head(name):
            return False
        return _AFTER_LAYERS.search(name) is not None
