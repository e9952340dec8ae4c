"""``python -m splitlearn export``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from splitlearn.app import conf_folder, export
from splitlearn.cli.errors import one_sentence


@hydra.main(config_path=str(conf_folder()), config_name="export", version_base="1.3")
@one_sentence
def main(cfg: DictConfig) -> None:
    """Write the folder and say where it is."""
    out = export(cfg)
    files = sorted(out.glob("*.safetensors"))
    size = sum(each.stat().st_size for each in files)
    print(f"wrote {out}: {len(files)} files of weights, {size / 2**30:.2f} GiB")
