import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from splitlearn.activations import ActivationCache, CacheSettings

SHAPE_TD = (3, 8)
ROW_BYTES = 3 * 8 * 4


class Source:
    """Counts the rows that are computed."""

    def __init__(self, num_rows: int = 10, dtype: torch.dtype = torch.float32) -> None:
        self.hidden_NTD = torch.randn(num_rows, *SHAPE_TD, dtype=dtype)
        self.num_computed = 0

    def of(self, rows_B: torch.Tensor) -> Callable[[torch.Tensor, bool], torch.Tensor]:
        def compute(places: torch.Tensor, is_trial: bool) -> torch.Tensor:
            self.num_computed += len(places)
            return self.hidden_NTD[rows_B[places]]

        return compute

    def fetch(self, cache: ActivationCache, *rows: int) -> torch.Tensor:
        rows_B = torch.tensor(rows)
        return cache.fetch(rows_B, self.of(rows_B))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPLITLEARN_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("keep", ["memory", "disk"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_each_row_is_computed_once(keep: str, dtype: torch.dtype) -> None:
    source = Source(dtype=dtype)
    cache = ActivationCache(CacheSettings(keep), 10, {"model": "m"})
    for rows in ((3, 1, 4), (1, 5, 9), (2, 6, 5), (3, 5, 8), (9, 7, 0), (0, 9, 8)):
        assert torch.equal(source.fetch(cache, *rows), source.hidden_NTD[list(rows)])
    # The first batch is computed twice, to see whether chance has a part in it.
    assert source.num_computed == 10 + 3


def test_what_is_on_disk_is_found_by_the_next_run_with_the_same_key(place: Path) -> None:
    source = Source()
    source.fetch(ActivationCache(CacheSettings("disk"), 10, {"model": "m"}), 0, 1, 2)
    again = ActivationCache(CacheSettings("disk"), 10, {"model": "m"})
    # Before the first row is computed nobody knows the shape; from then on, everything is there.
    source.fetch(again, 3)
    source.num_computed = 0
    assert torch.equal(source.fetch(again, 2, 0, 1), source.hidden_NTD[[2, 0, 1]])
    assert source.num_computed == 0
    other = ActivationCache(CacheSettings("disk"), 10, {"model": "another"})
    source.fetch(other, 3)
    source.fetch(other, 0, 1)
    assert source.num_computed == 2 + 2
    keys = [json.loads(path.read_text())["model"] for path in place.glob("activations/*/key.json")]
    assert sorted(keys) == ["another", "m"]


@pytest.mark.parametrize("damage", ["shortened", "deleted"])
@pytest.mark.parametrize("name", ["values", "present"])
def test_what_was_cut_short_on_disk_is_computed_anew(name: str, damage: str, place: Path) -> None:
    source = Source()
    source.fetch(ActivationCache(CacheSettings("disk"), 10, {}), 0, 1, 2)
    (path,) = place.glob(f"activations/*/{name}")
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-4])
    again = ActivationCache(CacheSettings("disk"), 10, {})
    source.fetch(again, 3)
    assert torch.equal(source.fetch(again, 2, 0, 1), source.hidden_NTD[[2, 0, 1]])


def test_the_disk_has_every_block_before_the_first_row_is_kept(place: Path) -> None:
    Source().fetch(ActivationCache(CacheSettings("disk"), 1000, {}), 0)
    (path,) = place.glob("activations/*/values")
    assert path.stat().st_blocks * 512 >= path.stat().st_size == 1000 * ROW_BYTES


def test_a_disk_without_room_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(ValueError, match=r"the activation cache needs .* set max_gib, or another place"):
        Source().fetch(ActivationCache(CacheSettings("disk"), 10, {}), 0)
    assert not list(place.glob("activations/*"))


@pytest.mark.parametrize("keep", ["memory", "disk"])
def test_no_more_is_kept_than_there_is_room_for(keep: str) -> None:
    source = Source()
    cache = ActivationCache(CacheSettings(keep, max_gib=4.5 * ROW_BYTES / 2**30), 10, {})
    for _ in range(3):
        assert torch.equal(source.fetch(cache, *range(10)), source.hidden_NTD)
    assert cache.num_bytes == 4 * ROW_BYTES
    assert source.num_computed == 2 * 10 + 2 * 6
    none = ActivationCache(CacheSettings(keep), 10, {"room": "none"}, max_bytes=0)
    assert torch.equal(source.fetch(none, 1, 2), source.hidden_NTD[[1, 2]])
    assert torch.equal(source.fetch(none, 1, 2), source.hidden_NTD[[1, 2]])


@pytest.mark.parametrize(("codec", "error"), [("bfloat16", 2**-8), ("int8", 1 / 127)])
def test_codecs_are_as_near_as_their_bits_allow_and_the_same_each_time(codec: str, error: float) -> None:
    source = Source()
    cache = ActivationCache(CacheSettings("memory", codec=codec), 10, {})
    first = source.fetch(cache, *range(10))
    largest = source.hidden_NTD.abs().amax(-1, keepdim=True)
    assert ((first - source.hidden_NTD).abs() <= error * largest).all()
    assert not torch.equal(first, source.hidden_NTD)
    assert torch.equal(source.fetch(cache, *range(10)), first)
    assert cache.num_bytes < 10 * ROW_BYTES * 0.6


@pytest.mark.parametrize(("old", "new"), [("none", "exact"), ("bfloat16", "bf16")])
def test_codecs_have_the_names_of_the_boundarys_too(old: str, new: str) -> None:
    source = Source()
    fetched = [source.fetch(ActivationCache(CacheSettings("memory", codec=name), 10, {}), 1, 2) for name in (old, new)]
    assert torch.equal(*fetched)


def test_what_chance_has_a_part_in_is_refused() -> None:
    with pytest.raises(ValueError, match="drop activations at random"):
        ActivationCache(CacheSettings("memory"), 10, {}).fetch(
            torch.tensor([0]), lambda places, is_trial: torch.rand(1, *SHAPE_TD)
        )


def test_chance_is_found_where_the_generator_is_put_back_after_use() -> None:
    def compute(places: torch.Tensor, is_trial: bool) -> torch.Tensor:
        with torch.random.fork_rng(devices=[]):
            return torch.rand(1, *SHAPE_TD)

    with pytest.raises(ValueError, match="drop activations at random"):
        ActivationCache(CacheSettings("memory"), 10, {}).fetch(torch.tensor([0]), compute)


def test_looking_for_chance_leaves_random_numbers_alone() -> None:
    source, numbers = Source(), []
    for fetches in (True, False):
        torch.manual_seed(3)
        if fetches:
            source.fetch(ActivationCache(CacheSettings("memory"), 10, {}), 0)
        numbers.append(torch.rand(2))
    assert torch.equal(*numbers)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": "tape"}, r"^keep is 'tape'; use one of none, memory, disk"),
        ({"codec": "mp3"}, r"^codec is 'mp3'; use one of none, bfloat16, int8"),
        ({"max_gib": 0}, r"^max_gib is 0; it must be a positive number"),
        ({"size": 1}, r"^size is not known"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CacheSettings.from_plain(settings)
