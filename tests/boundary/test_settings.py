"""Which codec encodes what: settings, compositions, cuts, and the sentences about those that cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from splitlearn.boundary import PAYLOADS, BoundaryCodecs, find_routes
from splitlearn.cut import Placement
from splitlearn.naming import naming_group

ONE_PARTY = find_routes(Placement.one_party(num_gpus=0))
VANILLA = find_routes(
    Placement.resolve({"client": {"parts": ["bottom"]}, "server": {"parts": ["trunk", "top"]}}, "client", "server", num_gpus=0)
)


def words_of(values: Any) -> dict[str, dict[str, str]]:
    return BoundaryCodecs.from_plain(values).to_dict()


def test_nothing_is_encoded_by_default() -> None:
    for values in (None, {}, "exact", {"forward": None, "cut_1": None, "cut_2": {"backward": None}}):
        codecs = BoundaryCodecs.from_plain(values)
        assert codecs == BoundaryCodecs() and codecs.is_exact
        assert all(codec.is_exact for cut in (1, 2) for codec in codecs.make(cut))


def test_directions_and_cuts_are_chosen_apart() -> None:
    told = words_of({"forward": "int8", "backward": "bf16", "cut_2": {"forward": {"codec": "topk", "share": 0.5}}})
    assert told == {
        "cut_1": {"forward": "int8", "backward": "bf16"},
        "cut_2": {"forward": "topk (share=0.5)", "backward": "bf16"},
    }
    assert words_of("int8")["cut_2"] == {"forward": "int8", "backward": "int8"}


def test_a_list_is_a_composition() -> None:
    steps = ["hadamard", {"codec": "int4", "group_size": None}]
    for forward in (steps, {"codec": steps}, {"codec": steps, "error_feedback": True}):
        codec, _ = BoundaryCodecs.from_plain({"forward": forward}).make(1)
        assert codec.name.startswith("hadamard, then int4")
    assert codec.name.endswith("with error feedback")


def test_each_cut_and_direction_has_a_codec_of_its_own() -> None:
    codecs = BoundaryCodecs.from_plain("int8")
    made = [codec for cut in (1, 2) for codec in codecs.make(cut)]
    assert len(set(map(id, made))) == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"forward": "mp3"}, "boundary.forward is 'mp3': there is no codec 'mp3'; there are .*bf16.*topk"),
        ({"forwards": "int8"}, "boundary.forwards is not known; there are forward, backward, cut_1, cut_2"),
        ({"cut_1": {"up": "int8"}}, "boundary.cut_1.up is not known; there are forward, backward"),
        ({"cut_1": "int8"}, "boundary.cut_1 is 'int8'; give forward and backward, such as boundary.cut_1.forward=int8"),
        ({"cut_2": {"forward": {"codec": "topk", "share": 2}}}, "boundary.cut_2.forward.share is 2; give the share"),
        ({"backward": {"codec": "int4", "group_size": 0}}, "boundary.backward.group_size is 0; give how many numbers"),
        (
            {"forward": {"codec": "int4", "share": 1}},
            "boundary.forward.share is no setting of the codec int4; it has group",
        ),
        ({"forward": {"codec": "int8", "bits": 1}}, "boundary.forward.bits is no setting of the codec int8; it has none"),
        ({"forward": {"share": 1}}, "boundary.forward is {'share': 1}; give a codec's name, such as int8"),
        ({"forward": 8}, "boundary.forward is 8; give a codec's name"),
        ({"forward": []}, "boundary.forward is an empty list"),
        ({"forward": ["int8", "topk"]}, "boundary.forward cannot be used: topk cannot follow int8, which sends no numbers"),
        ({"forward": ["topk", {"codec": "int4", "group_size": 1.5}]}, "boundary.forward.1.group_size is 1.5; give how many"),
        ({"forward": {"codec": ["topk", "int8"], "share": 0.5}}, "boundary.forward.share stands beside a list of codecs"),
        (
            {"forward": {"codec": "topk", "error_feedback": "yes"}},
            "boundary.forward.error_feedback is 'yes'; give true",
        ),
        ({"forward": ["topk", {"codec": "int8", "error_feedback": True}]}, "boundary.forward.1.error_feedback is of one codec"),
    ],
)
def test_settings_that_cannot_be(values: Any, message: str) -> None:
    with naming_group("boundary"), pytest.raises(ValueError, match=message):
        BoundaryCodecs.from_plain(values)


def test_codecs_where_nothing_crosses_are_refused() -> None:
    BoundaryCodecs.from_plain(None).refuse_unused(ONE_PARTY)
    BoundaryCodecs.from_plain("int8").refuse_unused(VANILLA)
    with pytest.raises(ValueError, match=r"^backward is int8, but one party holds all parts, so nothing is sent"):
        BoundaryCodecs.from_plain({"backward": "int8"}).refuse_unused(ONE_PARTY)
    with pytest.raises(ValueError, match=r"^cut_2.forward is set, but one party holds both sides of cut 2"):
        BoundaryCodecs.from_plain({"cut_2": {"forward": "int8"}}).refuse_unused(VANILLA)


def test_changes_are_told_by_cut_and_direction() -> None:
    before, after = BoundaryCodecs.from_plain(None), BoundaryCodecs.from_plain({"cut_2": {"forward": "int8"}})
    assert after.differences(before) == ["cut_2.forward was exact and is int8"]
    # However they are written.
    assert BoundaryCodecs.from_plain({"forward": {"codec": "int8"}}) == BoundaryCodecs.from_plain({"forward": ["int8"]})


def test_who_holds_a_part_is_not_told_what_codecs_have_kept_from_it() -> None:
    ways = {"forward": {"codec": "int4", "error_feedback": True}, "backward": ["reuse", "int8"]}
    codecs = BoundaryCodecs.from_plain(ways)
    states = {f"cut_{cut}/{payload}": {"rows": torch.tensor([cut])} for cut in (1, 2) for payload in PAYLOADS}
    # The errors of what it receives would undo the encoding; what both ends keep of gradients it needs.
    assert codecs.share_of(["trunk"], states).keys() == {"cut_1/gradient", "cut_2/activation", "cut_2/gradient"}
    assert codecs.share_of(["trunk", "top"], states).keys() == {"cut_1/gradient"}
    assert codecs.share_of(["bottom", "top"], states).keys() == {"cut_1/activation", "cut_1/gradient", "cut_2/gradient"}
