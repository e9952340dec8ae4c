"""Bottom, trunk and top run as one causal LM.

Shapes: B rows, T tokens, D hidden size, V vocabulary size.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
from torch import nn
from transformers import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from splitlearn.boundary import (
    PAYLOADS,
    U_SHAPED,
    Boundary,
    BoundaryCodecs,
    CallKind,
    Handover,
    Parcel,
    Route,
    TrafficMeter,
    codec_states,
)
from splitlearn.cut import PART_NAMES
from splitlearn.model.blueprint import compare_blueprints, compare_ties
from splitlearn.model.caches import PartCache, count_cached_tokens, make_cache
from splitlearn.model.embedding_noise import EmbeddingNoise
from splitlearn.model.generation import make_generator, refuse_what_parts_cannot
from splitlearn.model.modes import evaluating
from splitlearn.model.running import Arriving, Finished, Run, StageObserver
from splitlearn.model.sessions import GenerationSession, divide_cache
from splitlearn.model.split_model import SplitModel
from splitlearn.randomness import NamedGenerators

_CACHE_NAMES = ("past_key_values", "cache_params")


class ComposedCausalLM(nn.Module):
    """The three parts of one model, called like the unsplit transformers model.

    Args:
        bottom: embeddings and first layers.
        trunk: middle layers.
        top: last layers, final norm and head.
        routes: which way data pass the two cuts.
        generators: random number generators of the parts in training and of the boundaries' observers, by name; None leaves
            torch's default ones, which the unsplit model uses.
        codecs: how what crosses the cuts is sent; None sends everything as it is.
        meter: counts the bytes that cross the cuts; None makes one.

    Attributes:
        meter: counts the bytes that cross the cuts.
        boundaries: the boundaries at cut 1 and cut 2; all data that go from part to part pass them.
        stage_observers: are called with the name of each stage of a training run as it begins: ``"bottom"``, ``"cut_1"``,
            ``"trunk"``, ``"cut_2"``, ``"top"``. Evaluation, generation and trials are not shown.
        embedding_noise: noise on the bottom's embeddings in every call that crosses a cut; None for none.

    Raises:
        ValueError: the parts are not bottom, trunk and top of one cut, are of different models, commits or dtypes, or were
            saved by different runs or at different steps.
    """

    def __init__(
        self,
        bottom: SplitModel,
        trunk: SplitModel,
        top: SplitModel,
        *,
        routes: tuple[Route, Route] = U_SHAPED,
        generators: NamedGenerators | None = None,
        codecs: BoundaryCodecs | None = None,
        meter: TrafficMeter | None = None,
    ) -> None:
        super().__init__()
        given = [(part.spec.name, part.spec.start, part.spec.end, part.spec.num_layers) for part in (bottom, trunk, top)]
        num_layers = bottom.spec.num_layers
        cuts = bottom.spec.end, trunk.spec.end
        one_cut = [("bottom", 0, cuts[0], num_layers), ("trunk", *cuts, num_layers), ("top", cuts[1], num_layers, num_layers)]
        if given != one_cut:
            raise ValueError(f"these are not bottom, trunk and top of one cut: {given} (name, start, end, layers)")
        for part in (trunk, top):
            differences = compare_blueprints(bottom.blueprint, part.blueprint)
            # A trunk holds no end of a tie, so its blueprint's ties are not compared.
            differences += compare_ties(bottom.blueprint, part.blueprint) if part is top else []
            if differences:
                raise ValueError(f"bottom and {part.spec.name} are not of one model: {'; '.join(differences)}")
        _refuse_two_states([bottom, trunk, top])
        self.bottom = bottom
        self.trunk = trunk
        self.top = top
        self.meter = meter or TrafficMeter()
        self.generators = generators
        codecs = codecs or BoundaryCodecs()
        below, above = (Boundary(route, self.meter, *codecs.make(route.cut), generators) for route in routes)
        self.boundaries = below, above
        for boundary, senders in zip(self.boundaries, pairwise(self.parts), strict=True):
            # Smashed data come from the part below, their gradients from the part above.
            boundary.received = [payload for payload, sender in zip(PAYLOADS, senders, strict=True) if sender.is_elsewhere]
        self.stage_observers: list[StageObserver] = []
        self.embedding_noise: EmbeddingNoise | None = None

    @property
    def parts(self) -> tuple[SplitModel, SplitModel, SplitModel]:
        """Bottom, trunk and top."""
        return self.bottom, self.trunk, self.top

    def codec_states(self) -> dict[str, dict[str, Any]]:
        """Return what the codecs of both cuts remember from call to call, by ``cut_1/activation`` and so on."""
        return codec_states(self.boundaries)

    def load_codec_states(self, states: Mapping[str, Any]) -> None:
        """Go on from what `codec_states` returned.

        Raises:
            ValueError: a state is damaged, or of another codec.
        """
        for boundary in self.boundaries:
            boundary.load_codec_states(states)

    def make_cache(self) -> DynamicCache:
        """Return an empty key-value cache for all layers, to pass as ``past_key_values``; each part fills its own share."""
        return make_cache(self.bottom.blueprint.meta_model.config)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: Any = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        *,
        kind: CallKind | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Run the three parts.

        Args:
            input_ids: token ids, shape (B, T).
            attention_mask: 1 for real tokens and 0 for padding, shape (B, T), with cached tokens first. Or another
                form of mask that the transformers model takes.
            position_ids: positions of the tokens, shape (B, T).
            past_key_values: a cache with an entry for each layer, from `make_cache`; it is filled in place.
            kind: purpose of the call; None takes training where gradients are recorded in training mode, else evaluation.
            **kwargs: further arguments of the transformers model, for example ``labels``. ``use_cache=True`` without a cache
                makes one, which the output then holds.

        Returns:
            The unsplit model's output, with ``.logits`` of shape (B, T, V) on the top's device.

        Raises:
            ValueError: the cache does not have an entry for each layer or is not to be used, or there are no token ids.
        """
        cache = past_key_values if past_key_values is not None else kwargs.pop("cache_params", None)
        asked = kwargs.pop("use_cache", None)
        use_cache = cache is not None if asked is None else bool(asked)
        if cache is not None and not use_cache:
            raise ValueError("use_cache=False with a cache would leave out what it holds: pass one or the other")
        if kwargs.get("inputs_embeds") is not None or input_ids is None:
            raise ValueError("a cut model takes token ids as input_ids, not inputs_embeds")
        if use_cache and cache is None:
            cache = self.make_cache()
        num_cached_tokens = count_cached_tokens(cache) if use_cache else 0
        caches = divide_cache(cache, self.parts, num_cached_tokens) if cache is not None else None
        finished = self.run(
            input_ids, kind=kind, caches=caches, attention_mask=attention_mask, position_ids=position_ids, **kwargs
        )
        output: CausalLMOutputWithPast = cast(Finished, finished).output
        for name in _CACHE_NAMES:
            if name in output:
                output[name] = cache
        return output

    def rehearsal(self, seed: int) -> ComposedCausalLM:
        """Return a model of the same parts for trials whose data cross the cuts exactly as in other calls.

        Its boundaries are `Boundary.rehearsal`s with a meter and random numbers of their own, so that traffic, random numbers
        and the codecs' state of this model stay as they are.

        Args:
            seed: seed of the codecs' random numbers.
        """
        generators = NamedGenerators(seed)
        copied = copy.copy(self)
        copied.meter, copied.generators, copied.stage_observers = TrafficMeter(), generators, []
        below, above = (boundary.rehearsal(copied.meter, generators) for boundary in self.boundaries)
        copied.boundaries = below, above
        return copied

    def evaluating(self) -> AbstractContextManager[None]:
        """Put all modules in evaluation mode, and each back into its own mode afterwards."""
        return evaluating(self)

    def run(
        self,
        inputs: torch.Tensor | Parcel | Handover | Arriving,
        start: int = 0,
        stop: int = len(PART_NAMES),
        *,
        kind: CallKind | None = None,
        caches: Sequence[PartCache | GenerationSession | None] | None = None,
        labels_BT: torch.Tensor | None = None,
        rows_B: torch.Tensor | None = None,
        divisor: int | None = None,
        awaits: bool = True,
        **arguments: Any,
    ) -> Handover | Arriving | Finished:
        """Run some of the parts, or all, over the boundaries between them.

        Args:
            inputs: token ids (B, T) for the bottom; otherwise what an earlier run returned, or a parcel. A part above the
                bottom is reached over the boundary below it.
            start: number of the first part to run: 0 is bottom, 1 trunk, 2 top.
            stop: one past the number of the last.
            kind: purpose of the call; None takes training where gradients are recorded in training mode, else evaluation.
            caches: the key-value cache of each of the three parts, or its session if another party holds it.
            labels_BT: labels of shape (B, T) that the holder of the top must be sent, which are counted where they cross.
            rows_B: ids of the examples in the rows, shape (B), for codecs that remember them; None if they have none.
            divisor: what another party that holds the top divides the loss of the labels by, whose answer is then the losses
                alone; None asks it for the top's output.
            awaits: False lets the run stop at a part that another party holds before its answer has come. Several runs may be
                under way so; the runs that go on from them wait.
            **arguments: as for `forward`; a `Parcel` brings its own mask and positions.

        Returns:
            `Finished` with the top's ``output``; a `Handover` if the run stops below the top, or `Arriving` if another party
            has the last part.

        Raises:
            ValueError: the parts cannot take ``inputs``, per-layer outputs are wanted that a parcel alone does not bring, or a
                run that awaits its answers stops at a part that another party holds.
        """
        if kind is None:
            kind = CallKind.TRAIN if self.training and torch.is_grad_enabled() else CallKind.EVALUATE
        labels_BT = arguments.get("labels") if labels_BT is None else labels_BT
        arguments = {**self.recorded_outputs(), **arguments}
        observers = self.stage_observers if kind is CallKind.TRAIN else ()
        beside = (labels_BT, rows_B, self.generators, observers, self.embedding_noise)
        run = Run(self.parts, self.boundaries, kind, caches, *beside, divisor)
        reached = run(inputs, start, stop, arguments)
        if awaits and isinstance(reached, Arriving):
            if reached.reaches_top and stop == len(PART_NAMES):
                return run.finish(reached)
            raise ValueError(f"a run cannot stop at the {self.parts[stop - 1].spec.name}, which another party holds")
        return reached

    def recorded_outputs(self) -> dict[str, bool]:
        """Return the per-layer outputs that the model's configuration asks for.

        In the unsplit model the head passes the request on to the base model, but bottom and trunk run without a head.
        """
        config = self.top.config.get_text_config(decoder=True)
        return {"output_router_logits": True} if getattr(config, "output_router_logits", False) else {}

    def generate(self, inputs: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Generate with transformers' own ``generate``: sampling, beams, streamers, stopping criteria and all.

        Args:
            inputs: the prompts' token ids, shape (B, T), padded on the left; ``input_ids`` is another name for them.
            *args: as for ``transformers.GenerationMixin.generate``, a ``GenerationConfig`` first.
            **kwargs: its keyword arguments, for example ``attention_mask``, ``max_new_tokens``, ``do_sample``, ``num_beams``,
                ``streamer``.

        Returns:
            Token ids of shape (B, T + new tokens), or transformers' object with more if asked for.

        Raises:
            ValueError: transformers refuses an argument, the architecture keeps a cache that parts cannot share, or the way of
                generating needs the unsplit model.
        """
        blueprint = self.bottom.blueprint
        generator = make_generator(blueprint.meta_model, partial(self.forward, kind=CallKind.GENERATE), self.parts)
        generator.generation_config = copy.deepcopy(blueprint.generation_config or generator.generation_config)
        refuse_what_parts_cannot(generator, args, kwargs)
        return generator.generate(inputs, *args, **kwargs)


def _refuse_two_states(parts: Sequence[SplitModel]) -> None:
    """Refuse parts that runs saved in different states; parts that no run saved may stand beside them."""
    # A part elsewhere has none.
    stamps = {part.spec.name: stamp for part in parts if (stamp := getattr(part, "stamp", None)) is not None}
    if len(set(stamps.values())) > 1:
        states = ", ".join(f"{name} is of {stamp}" for name, stamp in stamps.items())
        raise ValueError(
            f"the parts were saved in different states and are no model together: {states}; load parts that one run "
            "has saved in the end (set a part's stamp to None if they are meant to be joined)"
        )
