"""``python -m splitlearn prepare``."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from splitlearn.cli.command import command


@command("prepare")
def main(cfg: DictConfig) -> None:
    """Write the prepared checkpoint; the folder appears whole or not at all."""
    import torch

    from splitlearn.checkpoint import CheckpointError, prepare_checkpoint
    from splitlearn.files import whole_folder
    from splitlearn.training import parse_dtype

    out = Path(cfg.out)
    if out.exists():
        raise CheckpointError(f"out={out} exists already; name a new folder")
    with whole_folder(out) as temporary:
        prepare_checkpoint(cfg.source, temporary, parse_dtype(cfg.dtype) or torch.float32, cfg.max_shard_size)
    shards = sorted(out.glob("*.safetensors"))
    print(f"wrote {out}: {len(shards)} shards, {sum(shard.stat().st_size for shard in shards) / 2**30:.2f} GiB")
