"""transformers' own ``generate`` on a cut model.

The unsplit model's class brings everything that generating needs (sampling, beams, streamers, its way of preparing inputs);
only its ``forward`` is replaced by a call of the parts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel


def make_generator(meta_model: PreTrainedModel, forward: Callable[..., Any], parts: tuple[Any, ...]) -> Any:
    """Return an object that has the unsplit model's methods, holds no weights, and calls the parts as its forward.

    Args:
        meta_model: the unsplit model on the meta device.
        forward: has the unsplit model's arguments and output.
        parts: bottom, trunk and top.
    """
    whole_class: Any = type(meta_model)

    # wraps keeps the unsplit model's signature: transformers checks the arguments of generate against it.
    @functools.wraps(whole_class.forward)
    def run_parts(self: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    def set_experts_implementation(self: Any, implementation: Any) -> None:
        whole_class.set_experts_implementation(self, implementation)
        for part in parts:
            part.model.set_experts_implementation(implementation)

    namespace = {
        "forward": run_parts,
        "set_experts_implementation": set_experts_implementation,
        "device": property(lambda self: parts[0].device),
        "dtype": property(lambda self: parts[0].dtype),
        "__module__": whole_class.__module__,
    }
    generator_class: Any = type(whole_class.__name__, (whole_class,), namespace)
    # Without the class's own __init__, which would make all modules; the module's attributes come from the meta model.
    generator = generator_class.__new__(generator_class)
    nn.Module.__init__(generator)
    module_state = set(vars(generator))
    generator.__dict__.update({name: value for name, value in vars(meta_model).items() if name not in module_state})
    return generator


def refuse_what_parts_cannot(generator: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse ways of generating that need more of the unsplit model than its ``forward``.

    Args:
        generator: from `make_generator`, with the settings of the checkpoint's authors.
        args: positional arguments of ``generate`` after the prompts.
        kwargs: its keyword arguments.

    Raises:
        ValueError: the arguments or the generation config ask for embeddings as input, drafting with the first layers, or a
            cache that cannot be divided.
    """
    given = kwargs.get("generation_config", args[0] if args else None)

    def setting(name: str) -> Any:
        """Return a setting by transformers' precedence: keyword, then the call's config, then the authors' config."""
        values = [kwargs.get(name, getattr(given, name, None)), getattr(generator.generation_config, name, None)]
        return next((value for value in values if value is not None), None)

    if kwargs.get("inputs_embeds") is not None:
        raise ValueError("a cut model takes token ids as input_ids, not inputs_embeds")
    early_exit = setting("assistant_early_exit")
    if early_exit is not None:
        raise ValueError(
            f"assistant_early_exit is {early_exit}, but the first layers of a cut model have no head to draft with: "
            "give an assistant_model or prompt_lookup_num_tokens instead"
        )
    if setting("use_cache") is not False and not generator._supports_default_dynamic_cache():
        raise ValueError(
            f"{type(generator).__name__} keeps a cache of its own kind, which cannot be divided among parts; "
            "pass use_cache=False"
        )
