"""What tests of sweeps share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra

from splitlearn.settings import conf_folder


@pytest.fixture
def loader() -> Iterator[ConfigLoader]:
    with initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        yield hydra.config_loader
