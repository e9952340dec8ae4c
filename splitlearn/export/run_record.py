"""What a finished run left behind, as far as its model can be put together again from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from splitlearn.adapters import AdapterSettings


@dataclass(frozen=True)
class RunRecord:
    """One run's folder.

    Attributes:
        folder: the folder.
        config: its resolved configuration, as plain values; nothing that it names is imported.
        summary: its ``summary.json``.
    """

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> RunRecord:
        """Read a run's folder.

        Raises:
            FileNotFoundError: the folder is no run's, or the run did not complete.
        """
        path = Path(folder).expanduser()
        for name in ("summary.json", "config.yaml"):
            if not (path / name).is_file():
                raise FileNotFoundError(f"{path} has no {name}; name the folder of a completed run, such as outputs/DATE/TIME")
        summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
        if summary.get("status") != "completed":
            raise FileNotFoundError(
                f"the run in {path} is {summary.get('status')}, not completed; go on with ckpt_path=last first"
            )
        config: Any = OmegaConf.to_container(OmegaConf.load(path / "config.yaml"), resolve=True)
        return cls(path, config, summary)

    @property
    def adapters(self) -> AdapterSettings:
        """The adapters that the run trained."""
        return AdapterSettings.from_plain(self.config.get("peft"))

    @property
    def split_points(self) -> tuple[int, int]:
        """First layer of the trunk, and of the top."""
        return self.summary["split_point_1"], self.summary["split_point_2"]

    @property
    def trained(self) -> dict[str, str]:
        """For each part what of it was trained: ``"full"``, ``"frozen"``, ``"adapters"``, ``"biases"`` and so on."""
        trained: dict[str, str] = self.summary["trained"]
        return trained

    def saved_part(self, name: str) -> Path | None:
        """Return the file of the part ``name``, or None if the run saved none."""
        path = self.folder / "parts" / f"{name}.pt"
        # Files of an earlier run in the same folder may lie there.
        return path if self.summary.get("saved_parts") and path.is_file() else None
