import pytest

from splitlearn.cut import DeviceMapError, resolve_device_map


@pytest.mark.parametrize(
    ("num_gpus", "placement"),
    [
        (0, ("cpu", "cpu", "cpu")),
        (1, ("cpu", "cuda:0", "cuda:0")),
        (2, ("cpu", "cuda:0", "cuda:1")),
        (3, ("cuda:0", "cuda:1", "cuda:2")),
        (8, ("cuda:0", "cuda:1", "cuda:2")),
    ],
)
def test_auto_follows_the_number_of_gpus(num_gpus: int, placement: tuple[str, str, str]) -> None:
    assert tuple(resolve_device_map("cpu", "auto", num_gpus=num_gpus).values()) == placement


def test_parts_that_the_map_leaves_out_take_device() -> None:
    assert resolve_device_map("cuda", {"bottom": "cpu"}, num_gpus=1) == {"bottom": "cpu", "trunk": "cuda:0", "top": "cuda:0"}
    assert resolve_device_map("cpu", None, num_gpus=0) == dict.fromkeys(("bottom", "trunk", "top"), "cpu")
    assert resolve_device_map("cpu", "cuda:1", num_gpus=2) == dict.fromkeys(("bottom", "trunk", "top"), "cuda:1")


@pytest.mark.parametrize(
    ("device", "device_map", "message"),
    [
        ("cuda:0", None, "device is 'cuda:0', but this machine has no GPU"),
        ("cpu", {"trunk": "cuda:1"}, r"device_map\['trunk'\] is 'cuda:1', but this machine has no GPU"),
        ("cpu", {"trunkk": "cpu"}, "device_map names 'trunkk'; the parts are bottom, trunk, top"),
        ("gpu", None, "device is 'gpu'"),
        ("cpu", "balanced", "device_map is 'balanced'"),
        ("cpu", {"top": 3}, r"device_map\['top'\] is 3"),
        ("cpu", 3, "device_map is 3"),
    ],
)
def test_devices_that_cannot_be_had_are_refused(device: str, device_map: object, message: str) -> None:
    with pytest.raises(DeviceMapError, match=message):
        resolve_device_map(device, device_map, num_gpus=0)  # type: ignore[arg-type]


def test_devices_of_parts_that_are_elsewhere_are_not_looked_for() -> None:
    assert resolve_device_map("cpu", {"top": "cuda:7"}, num_gpus=0, parts=("trunk",)) == {"trunk": "cpu"}
    assert resolve_device_map("cpu", "auto", num_gpus=1, parts=("trunk",)) == {"trunk": "cuda:0"}
