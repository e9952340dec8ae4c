"""Every codec: its bytes from shapes, how near it comes, and what it never loses.

The bytes are those of one token of SmolLM2-135M, whose hidden size is 576.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitlearn.boundary import CallKind, Codec, CodecContext, CodecSettings, Columns, codec_names

D = 576
# By setting: bytes of a token of float32, and the largest error as a share of the largest number of the token.
CODECS: dict[str, tuple[Any, int, float]] = {
    "exact": ("exact", 2304, 0),
    "bf16": ("bf16", 1152, 2**-8),
    "int8": ("int8", 578, 0.75 / 127),
    "int4 per token": ({"codec": "int4", "group_size": None}, 290, 0.52 / 7),
    "int4 in groups of 64": ({"codec": "int4", "group_size": 64}, 306, 0.52 / 7),
    "int4 in groups of 32": ("int4", 324, 0.52 / 7),
    # Rounding errors add up when they are rotated back.
    "int4 rotated": ("int4_hadamard", 290, 1),
    "int3 rotated": (["hadamard", {"codec": "int3", "group_size": None}], 218, 1.5),
    "int3": ("int3", 216 + 36, 0.52 / 3),
    "hadamard": ("hadamard", 2304, 1e-5),
    "top 25 %": ("topk", 576, 1),
    "top 25 % in int8": (["topk", "int8"], 144 + 288 + 2, 1),
}
NOISY = {"gaussian", "dchi", "reuse"}


def make(setting: Any) -> Codec:
    return CodecSettings.from_plain(setting, "forward").make()


def context_of(tensor: torch.Tensor, **more: Any) -> CodecContext:
    return CodecContext(CallKind.TRAIN, "cut_1", "activation", tensor.shape, **more)


def roundtrip(codec: Codec, tensor: torch.Tensor) -> tuple[Columns, torch.Tensor]:
    columns = codec.encode(tensor, context_of(tensor))
    return columns, codec.decode(columns, tensor.dtype, context_of(tensor))


def hidden(*shape: int, seed: int = 0) -> torch.Tensor:
    """Hidden states with the outliers of a language model: some tokens and some channels are enormous."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(*shape, generator=generator)
    drawn[..., 3] *= 50
    drawn[0] *= 10
    return drawn


def test_every_codec_is_tested_here() -> None:
    tested = {step for setting, _, _ in CODECS.values() for step, _ in CodecSettings.from_plain(setting, "forward").steps}
    assert set(codec_names()) - NOISY == tested


@pytest.mark.parametrize("name", CODECS)
def test_bytes_and_errors(name: str) -> None:
    setting, num_bytes, error = CODECS[name]
    tensor = hidden(2, 5, D)
    columns, arrived = roundtrip(make(setting), tensor)
    assert sum(column.nbytes for column in columns.values()) == 2 * 5 * num_bytes
    assert arrived.dtype == tensor.dtype and arrived.shape == tensor.shape
    assert ((arrived - tensor).abs() <= error * tensor.abs().amax(-1, keepdim=True)).all()
    assert make(setting).is_exact == (error == 0) == torch.equal(arrived, tensor)


@pytest.mark.parametrize("name", CODECS)
def test_sizes_are_known_without_memory(name: str) -> None:
    setting, num_bytes, _ = CODECS[name]
    columns, arrived = roundtrip(make(setting), torch.zeros(2, 5, D, device="meta"))
    assert sum(column.nbytes for column in columns.values()) == 2 * 5 * num_bytes
    assert arrived.shape == (2, 5, D) and arrived.device.type == "meta"


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_zeros_and_dtypes_survive(name: str, dtype: torch.dtype) -> None:
    zeros = torch.zeros(2, 3, 8, dtype=dtype)
    _, arrived = roundtrip(make(CODECS[name][0]), zeros)
    assert torch.equal(arrived, zeros) and arrived.dtype == dtype


@pytest.mark.parametrize("name", CODECS)
def test_small_gradients_do_not_become_zero(name: str) -> None:
    _, arrived = roundtrip(make(CODECS[name][0]), 1e-30 * hidden(2, 3, D))
    assert (arrived != 0).any(-1).all()


@pytest.mark.parametrize("name", [name for name in CODECS if name not in ("exact",)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_finite_number_stays_visible(name: str, bad: float) -> None:
    tensor = torch.ones(1, 2, 16)
    tensor[0, 0, 3] = bad
    _, arrived = roundtrip(make(CODECS[name][0]), tensor)
    assert not arrived[0, 0].isfinite().all() and arrived[0, 1].isfinite().all()


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 70), tokens=st.integers(1, 4), name=st.sampled_from(sorted(CODECS)), seed=st.integers(0, 9))
def test_any_width_comes_back_whole(width: int, tokens: int, name: str, seed: int) -> None:
    """Odd widths, groups that do not divide them and single numbers too."""
    setting, _, error = CODECS[name]
    tensor = torch.randn(2, tokens, width, generator=torch.Generator().manual_seed(seed))
    _, arrived = roundtrip(make(setting), tensor)
    assert arrived.shape == tensor.shape
    largest = tensor.abs().amax(-1, keepdim=True)
    assert ((arrived - tensor).abs() <= max(error, 1e-5) * largest + 1e-6).all()
    # Numbers of other shapes, such as router logits, are encoded alike.
    flat = tensor.flatten(0, 1)
    assert torch.allclose(roundtrip(make(setting), flat)[1].view_as(arrived), arrived)


def test_a_rotation_mends_outliers_and_groups_confine_them() -> None:
    tensor = hidden(4, 16, D)
    errors = {name: (roundtrip(make(CODECS[name][0]), tensor)[1] - tensor).norm() for name in CODECS}
    assert errors["int4 rotated"] < 0.5 * errors["int4 per token"]
    assert errors["int4 in groups of 32"] < errors["int4 in groups of 64"] < 0.5 * errors["int4 per token"]


def test_the_largest_numbers_arrive_where_they_were() -> None:
    tensor = torch.tensor([[0.5, -8.0, 1.0, 4.0, 0.0, -0.25, 2.0, 0.125]])
    columns, arrived = roundtrip(make({"codec": "topk", "share": 0.25}), tensor)
    assert torch.equal(arrived, torch.tensor([[0.0, -8.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0]]))
    assert columns["indices"].dtype == torch.uint8


@pytest.mark.parametrize(("width", "dtype"), [(256, torch.uint8), (257, torch.int16), (32769, torch.int32)])
def test_indices_take_the_smallest_type_that_holds_them(width: int, dtype: torch.dtype) -> None:
    tensor = torch.arange(float(width))[None]
    columns, arrived = roundtrip(make({"codec": "topk", "share": 1 / width}), tensor)
    assert columns["indices"].dtype == dtype
    assert arrived[0, -1] != 0, "the last place is the largest index"


def test_a_codec_of_few_bits_knows_how_many_numbers_it_gets() -> None:
    """Three of ten numbers are an odd count, which fills no whole byte."""
    tensor = torch.arange(1.0, 11)[None]
    _, arrived = roundtrip(make([{"codec": "topk", "share": 0.3}, {"codec": "int4", "group_size": 1}]), tensor)
    assert torch.allclose(arrived, torch.tensor([[0.0] * 7 + [8, 9, 10]]), rtol=0.01)


def test_autocast_does_not_round_a_rotation() -> None:
    tensor = hidden(2, 3, D)
    with torch.autocast("cpu", torch.bfloat16):
        _, arrived = roundtrip(make("hadamard"), tensor)
    assert torch.allclose(arrived, tensor, rtol=1e-5, atol=1e-3)


def test_padding_is_told_from_tokens() -> None:
    tensor = torch.zeros(2, 3, 8)
    # In generation the mask covers the cached tokens too.
    mask = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    token_mask = context_of(tensor, attention_mask=mask).token_mask
    assert token_mask is not None and token_mask.tolist() == [[True, True, False], [True, True, True]]
    assert context_of(tensor, attention_mask=mask, place=1).token_mask is None
    assert context_of(tensor, attention_mask={"full": mask}).token_mask is None
    assert context_of(tensor).token_mask is None
