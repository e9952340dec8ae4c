"""Which checkpoint tensor feeds which tensor of the model, settled by names and shapes before anything is read.

Checkpoint names and layouts may differ from those of transformers' modules (older names, experts stored one by one).
transformers' own conversion rules decide, so a part can be loaded from every checkpoint that transformers can load.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, WeightTransform, rename_source_key

from splitlearn.checkpoint import CheckpointError, name_some
from splitlearn.cut import PartSpec
from splitlearn.loading.unexpected import check_unexpected_setting, describe_refusal, hint_at_quantization, refused_names
from splitlearn.model import Blueprint

# Buffers of old checkpoints that transformers leaves out silently, because they are computed nowadays.
_COMPUTED_BUFFERS = (r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$", r"\.(attn|attention)\.(masked_)?bias$")


@dataclass(frozen=True)
class Match:
    """Where one checkpoint tensor goes.

    Attributes:
        source: its name in the checkpoint.
        targets: the unsplit model's tensors that it feeds, alone or together with other checkpoint tensors.
        pattern: the pattern of the conversion that merges, splits or transposes it on the way; None if it is taken as it is.
    """

    source: str
    targets: tuple[str, ...]
    pattern: str | None

    @property
    def is_converted(self) -> bool:
        """Whether its shape may differ from its target's."""
        return self.pattern is not None


def match_tensors(
    blueprint: Blueprint, names: Iterable[str], checkpoint: str, unexpected_tensors: str = "auto"
) -> tuple[list[Match], list[str]]:
    """Assign every tensor of a checkpoint to the tensor of the model that it feeds.

    Args:
        blueprint: the model.
        names: the checkpoint's tensor names.
        checkpoint: the checkpoint's name for messages.
        unexpected_tensors: treatment of tensors that the model does not have, one of `UNEXPECTED`.

    Returns:
        One match for each tensor that the model takes, and the names that are left out. Buffers that transformers leaves out
        silently are in neither.

    Raises:
        CheckpointError: the model needs tensors that are not there, or the checkpoint holds tensors that the model lacks and
            that speak for another model.
        ValueError: ``unexpected_tensors`` is none of `UNEXPECTED`.
    """
    check_unexpected_setting(unexpected_tensors)
    model = blueprint.meta_model
    expected = model.state_dict()
    conversions = get_model_conversion_mapping(model)
    matches, unexpected = [], []
    for name in names:
        match = _match(name, model, expected, conversions)
        if match is not None:
            matches.append(match)
        elif not _is_ignorable(name, model):
            unexpected.append(name)
    missing = _missing(blueprint, matches, set(expected)) or _missing_members(matches)
    if missing:
        others = f"; it holds others that the model does not have: {name_some(unexpected)}" if unexpected else ""
        hint = hint_at_quantization(unexpected)
        raise CheckpointError(f"{checkpoint} lacks tensors that the model needs: {name_some(missing)}{others}{hint}")
    feedings = [(match.source, match.targets) for match in matches]
    refused = refused_names(blueprint, feedings, unexpected, unexpected_tensors)
    if refused:
        raise CheckpointError(describe_refusal(blueprint, refused, checkpoint))
    return matches, unexpected


def _match(
    name: str, model: PreTrainedModel, expected: dict[str, torch.Tensor], conversions: list[WeightTransform]
) -> Match | None:
    renamings = [conversion for conversion in conversions if isinstance(conversion, WeightRenaming)]
    converters = [conversion for conversion in conversions if isinstance(conversion, WeightConverter)]
    target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, expected)
    if target not in expected:
        # Some checkpoints of an old architecture have the new names already: match without renaming.
        target, pattern = rename_source_key(name, [], [], model.base_model_prefix, expected)
    if target not in expected:
        return None
    if pattern is None:
        return Match(name, (target,), pattern=None)
    patterns = next(converter.target_patterns for converter in converters if pattern in converter.source_patterns)
    return Match(name, tuple(target.replace(patterns[0], other) for other in patterns), pattern)


def _is_ignorable(name: str, model: PreTrainedModel) -> bool:
    patterns = [*_COMPUTED_BUFFERS, *(model._keys_to_ignore_on_load_unexpected or ())]
    return any(re.search(pattern, name) for pattern in patterns)


def _missing(blueprint: Blueprint, matches: list[Match], expected: set[str]) -> list[str]:
    fed = {target for match in matches for target in match.targets}
    # One stored end of a tie feeds both.
    for target, source in blueprint.ties.items():
        if target in fed or source in fed:
            fed |= {target, source}
    return [name for name in expected - fed if not _may_be_missing(name, blueprint.meta_model)]


def _missing_members(matches: list[Match]) -> list[str]:
    """Name tensors that are absent from lists merged into one tensor, such as one expert's of many."""
    # From target and pattern to the list's members: number in the list -> checkpoint name.
    lists: dict[str, dict[str, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for match in matches:
        if match.pattern is not None and "*" in match.pattern:
            number = re.search(re.escape(match.pattern).replace(r"\*", r"([0-9]{1,9})"), match.source)
            if number is not None:
                lists[match.targets[0]][match.pattern][int(number.group(1))] = match.source
    sizes: dict[str, int] = defaultdict(int)
    for by_pattern in lists.values():
        for pattern, members in by_pattern.items():
            last = max(members)
            if last >= len(matches):
                # Counting up to a damaged number would take time and memory without end.
                raise CheckpointError(
                    f"{members[last]} is the name of a tensor, but the checkpoint has only {len(matches):,} tensors; "
                    "fetch it again"
                )
            sizes[pattern] = max(sizes[pattern], 1 + last)
    missing = []
    for by_pattern in lists.values():
        # Compare with the longest list in any layer: a list missing its last expert looks complete on its own.
        size = max(sizes[pattern] for pattern in by_pattern)
        for pattern, members in by_pattern.items():
            head, tail = pattern.split("*")[:2]
            example_number, example = next(iter(members.items()))
            absent = sorted(set(range(size)) - set(members))
            missing += [example.replace(f"{head}{example_number}{tail}", f"{head}{number}{tail}") for number in absent]
    return missing


def _may_be_missing(name: str, model: PreTrainedModel) -> bool:
    return any(re.search(pattern, name) for pattern in model._keys_to_ignore_on_load_missing or ())


def sources_for(blueprint: Blueprint, matches: list[Match], part: PartSpec) -> dict[str, str]:
    """Return which checkpoint tensors a part reads and under which name transformers' loader sees each.

    Args:
        blueprint: the model.
        matches: the matches of the whole checkpoint.
        part: the part.

    Returns:
        From the name that is shown to the loader (layers numbered from the part's first) to the name in the checkpoint.
    """
    chosen = {}
    for match in matches:
        if blueprint.belongs_to(match.targets[0], part):
            layer = blueprint.layer_of(match.targets[0])
            presented = match.source if layer is None else _renumber(match.source, layer, layer - part.start)
            chosen[presented] = match.source
    return chosen


def _renumber(source: str, layer: int, local: int) -> str:
    # The layer's number is the first whole-number component of a checkpoint name; lists of layers have many names.
    return re.sub(rf"(^|\.){layer}(?=\.)", rf"\g<1>{local}", source, count=1)
