"""How a run's rows were written out, kept in its folder, so that its model is asked in the way that it learned."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from splitlearn.files import write_json
from splitlearn.json_text import read_json_object

PROMPT_FORMAT_FILE = "prompt_format.json"


@dataclass(frozen=True)
class PromptFormat:
    """What was around the prompts and behind the answers of a run's rows.

    Attributes:
        system: the system message that conversations began with; None for none.
        prompt_template: the text with placeholders that prompts were made by; None for none.
        end_token_ids: token ids that end what the model was taught to say.
        end_text: a text that ends it, where no single token does; None for none.
        merges_at_border: whether the end of a prompt and the beginning of its completion were one token in some rows.
    """

    system: str | None = None
    prompt_template: str | None = None
    end_token_ids: tuple[int, ...] = ()
    end_text: str | None = None
    merges_at_border: bool = False

    def write(self, folder: Path) -> None:
        """Write ``prompt_format.json`` into a run's folder."""
        write_json(folder / PROMPT_FORMAT_FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> PromptFormat:
        """Read it from a run's folder; a run without the file taught nothing of its own.

        Raises:
            ValueError: the file is damaged.
        """
        path = folder / PROMPT_FORMAT_FILE
        if not path.is_file():
            return cls()
        try:
            settings = read_json_object(path)
            known = {field.name: settings[field.name] for field in fields(cls) if field.name in settings}
            checked = cls(**known | {"end_token_ids": tuple(int(token) for token in known.get("end_token_ids", ()))})
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise ValueError(f"{path} is damaged: {error}; delete it to ask the model as the base model is asked") from error
        for name in ("system", "prompt_template", "end_text"):
            value: Any = getattr(checked, name)
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{path} is damaged: {name} is no text; delete it to ask the model as the base model is asked")
        return checked


def with_learned_ends(generation_config: GenerationConfig | None, prompt_format: PromptFormat) -> GenerationConfig | None:
    """Return generation settings that also stop at the tokens that end what a run taught its model to say.

    Args:
        generation_config: the base model's settings, which are not changed; None if it has none.
        prompt_format: what the run taught.

    Returns:
        The settings; None if there are none and nothing was taught.
    """
    own = None if generation_config is None else generation_config.eos_token_id
    own_ids = [] if own is None else list(own) if isinstance(own, (list, tuple)) else [own]
    learned = [token for token in prompt_format.end_token_ids if token not in own_ids]
    if not learned:
        return generation_config
    extended = GenerationConfig() if generation_config is None else copy.deepcopy(generation_config)
    ends = [*own_ids, *learned]
    extended.eos_token_id = ends[0] if len(ends) == 1 else ends
    return extended
