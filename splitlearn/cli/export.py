"""``python -m splitlearn export``."""

from __future__ import annotations

from omegaconf import DictConfig

from splitlearn.cli.command import command


@command("export")
def main(cfg: DictConfig) -> None:
    """Write the folder and say where it is."""
    from splitlearn.app import export

    out = export(cfg)
    files = sorted(out.glob("*.safetensors"))
    size = sum(each.stat().st_size for each in files)
    print(f"wrote {out}: {len(files)} files of weights, {size / 2**30:.2f} GiB")
