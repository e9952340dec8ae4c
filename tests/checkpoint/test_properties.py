"""What holds for any header, index and file name: it is read rightly, or refused with a documented error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import save

from splitlearn.checkpoint import CheckpointError
from splitlearn.checkpoint.header import LENGTH_BYTES, header_length, parse_header
from splitlearn.checkpoint.main_file import check_inside, parse_index

SCALARS: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda name: name != "__metadata__")
TENSORS = st.dictionaries(
    NAMES,
    st.builds(
        lambda shape, dtype: np.zeros(shape, dtype),
        st.lists(st.integers(0, 3), max_size=3),
        st.sampled_from(["float32", "float16", "int64", "uint8"]),
    ),
    max_size=4,
)
ENTRIES = st.dictionaries(
    st.text(max_size=6),
    st.fixed_dictionaries({}, optional={"dtype": st.sampled_from(["F32", "BF16", "U8", "X"]) | SCALARS,
                                        "shape": st.lists(st.integers(-1, 5) | SCALARS, max_size=3) | SCALARS,
                                        "data_offsets": st.lists(st.integers(-1, 40) | SCALARS, max_size=3) | SCALARS}) | JSON,
    max_size=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def index_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that each example writes anew."""
    return tmp_path_factory.mktemp("index") / "model.safetensors.index.json"


def parse(content: bytes) -> Any:
    length = header_length(content[:LENGTH_BYTES], "a.safetensors")
    return parse_header(content[LENGTH_BYTES : LENGTH_BYTES + length], len(content), "a.safetensors")


@given(TENSORS)
def test_a_header_says_what_was_saved(tensors: dict[str, np.ndarray]) -> None:
    content = save(tensors)
    header = parse(content)
    assert {name: entry.shape for name, entry in header.tensors.items()} == {
        name: array.shape for name, array in tensors.items()
    }
    assert {name: content[entry.start : entry.end] for name, entry in header.tensors.items()} == {
        name: array.tobytes() for name, array in tensors.items()
    }


@given(TENSORS, st.data())
def test_a_damaged_file_is_refused_or_its_tensors_lie_within(tensors: dict[str, np.ndarray], data: st.DataObject) -> None:
    content = bytearray(save(tensors))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    try:
        header = parse(bytes(content))
    except CheckpointError as error:
        assert "a.safetensors" in str(error)
        return
    assert sum(entry.num_bytes for entry in header.tensors.values()) == len(content) - header.data_start


@given(ENTRIES, st.integers(0, 64))
@example({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}}, 4)
def test_any_header_is_refused_or_fills_its_file(entries: dict[str, Any], num_bytes: int) -> None:
    text = json.dumps(entries).encode()
    try:
        header = parse_header(text, LENGTH_BYTES + len(text) + num_bytes, "a.safetensors")
    except CheckpointError as error:
        assert "a.safetensors" in str(error)
        return
    assert sum(entry.num_bytes for entry in header.tensors.values()) == num_bytes


@given(
    content=JSON
    | st.fixed_dictionaries(
        {"weight_map": JSON | st.dictionaries(NAMES, NAMES | SCALARS, max_size=3)}, optional={"metadata": JSON}
    )
)
def test_any_index_is_refused_or_maps_names_to_names(index_file: Path, content: Any) -> None:
    path = index_file
    path.write_text(json.dumps(content))
    try:
        index = parse_index(path)
    except CheckpointError as error:
        assert str(path) in str(error)
        return
    assert index["weight_map"]
    assert {type(value) for pair in index["weight_map"].items() for value in pair} == {str}


@given(content=st.binary(max_size=60))
def test_any_bytes_are_refused_or_an_index(index_file: Path, content: bytes) -> None:
    path = index_file
    path.write_bytes(content)
    try:
        assert parse_index(path)["weight_map"]
    except CheckpointError as error:
        assert str(path) in str(error)


@given(st.text(max_size=12) | st.lists(st.sampled_from(["..", ".", "a", "", "~", "\\"]), min_size=1, max_size=5).map("/".join))
@example("a/../../b")
@example("/etc/passwd")
@example("\x00")
@example("\ud800")
def test_a_name_is_refused_or_lies_in_the_folder(name: str) -> None:
    try:
        check_inside(name, "model")
    except CheckpointError:
        return
    folder = Path("/folder")
    assert (folder / name).resolve().is_relative_to(folder)
