"""``python -m splitlearn certificates``."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from splitlearn.cli.command import command


@command("certificates", imports="splitlearn.certificates")
def main(cfg: DictConfig) -> None:
    """Write the certificates, and say which folder goes to whom."""
    from splitlearn.certificates import AUTHORITY_FOLDER, make_certificates

    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    given = {name: plain[name] for name in ("out", "parties", "hosts", "days", "authority")}
    # A list of hosts in the configuration's file could not be replaced by a mapping on the command line.
    made = make_certificates(**{name: value for name, value in given.items() if value is not None})
    print(f"wrote {made.folder}, valid until {made.expires:%Y-%m-%d %H:%M} UTC")
    for name, hosts in made.hosts.items():
        serves = f", which serves at {', '.join(hosts)}" if hosts else ""
        print(f"  {made.folder / name}: hand it to {name}{serves}, over a way that nobody else can read")
    if cfg.authority is None:
        print(f"  {made.folder / AUTHORITY_FOLDER}: keep it; who has its key can make parties")
    print(f"the authority's SHA-256, by which parties see that they have the same: {made.fingerprint}")
