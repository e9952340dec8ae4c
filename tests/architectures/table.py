"""Compares every architecture with its parts and writes what came out to docs/architectures.md.

Run ``python -m tests.architectures.table`` to refresh the document; it exits with 1 if an architecture that can be cut is not
exact.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Nothing is loaded from a hub.
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from splitlearn.checkpoint import CheckpointError
from splitlearn.checkpoint.errors import name_some
from splitlearn.cut import CutError
from splitlearn.loading import read_config
from splitlearn.model import UnsupportedModelError
from splitlearn.model.blueprint import draw_blueprint
from tests.architectures.catalogue import ARCHITECTURES, tiny_config, tiny_model
from tests.architectures.checks import AT_OTHER_CUTS, CHECKS, MAIN_CUT, OTHER_CUTS, Comparison, changes_after_loading
from tests.architectures.published import published_class, published_model

DOCUMENT = Path(__file__).parents[2] / "docs" / "architectures.md"
EXACT, INEXACT, REFUSED, NOT_COMPARED = "exact", "not exact", "refused", "not compared"
EQUAL, INCOMPLETE, ITS_OWN = "equal", "incomplete", "its own"

_HEAD = """# Architectures

One row for each causal LM of transformers {version}, {total} in all: {exact} exact, {refused} refused before anything is
loaded, {not_compared} not compared. `make test-all` measures and writes this page.

*Exact* means that the largest difference between the parts and the unsplit model is 0.0, in float32 on one CPU thread, with
a tiny model that was saved as a sharded checkpoint and loaded from it by transformers and by splitlearn. Compared at the cut
{cut}:
{checks}.

At the cuts {other_cuts}, too, as far as an architecture allows them: {at_other_cuts}. Where a check
does not apply, there is nothing to compare: the router loss without experts, recomputation where transformers offers none,
bf16 where the unsplit model cannot run in it. *Saved parts* are read again and compared with the loaded ones, to the bit.
*Recorded outputs* are the hidden states and attentions of all layers.

A few classes of transformers initialise weights anew that they have loaded from the checkpoint, so the unsplit model differs
from its files. The parts equal the result of `from_pretrained`, not the files, and the remarks name the tensors;
`python -m splitlearn verify` names them too.

*Published layout*: checkpoints are often published as another class, with towers, an encoder or a pooler beside the causal LM.
Where transformers has such a class for the configuration, it was saved tiny and loaded as a causal LM by both. *Equal* means
that the logits, left padding included, differ by 0.0. *Incomplete* means that transformers itself finds tensors missing and
fills them at random, which splitlearn refuses. *Its own* means that there is no other class.

*Refused* means that splitlearn says why it does not cut the model, before it reads any weights. *Not compared* means that
transformers itself did not build, load or run the tiny model; splitlearn makes no claim about these.

| architecture | class | status | published layout | remarks |
|---|---|---|---|---|
"""


@dataclass
class Row:
    """What came out for one architecture.

    Attributes:
        architecture: its key in transformers' mapping.
        status: exact, not exact, refused or not compared.
        remarks: the reason, or what differs and by how much.
        published: what came out for the layout in which it is published.
    """

    architecture: str
    status: str
    remarks: list[str] = field(default_factory=list)
    published: str = "-"

    def render(self) -> str:
        """Return the row of the table."""
        class_name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[self.architecture]
        remarks = "; ".join(self.remarks)
        return f"| {self.architecture} | {class_name} | {self.status} | {self.published} | {remarks} |"


def _one_line(error: Exception) -> str:
    text = re.sub(r"/tmp/\S+?(?=[ ,:])", "the checkpoint", " ".join(str(error).split())).replace("|", "/")
    return text if len(text) <= 160 else f"{text[:157]}..."


def _refusal(architecture: str) -> str | None:
    """Return why splitlearn refuses an architecture before any weights, or None."""
    try:
        config = tiny_config(architecture)
    except Exception:
        # A wrapper whose parts constrain each other; its default configuration costs nothing without weights.
        try:
            config = CONFIG_MAPPING[architecture]()
        except Exception as error:
            return f"transformers cannot build its default configuration: {_one_line(error)}"
    try:
        draw_blueprint(config, torch.float32)
    except UnsupportedModelError as error:
        return _one_line(error)
    return None


def compare(architecture: str) -> Row:
    """Compare an architecture with its parts, by every check."""
    reason = _refusal(architecture)
    if reason is not None:
        return Row(architecture, REFUSED, [reason])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            tiny_model(architecture).save_pretrained(folder, max_shard_size="100KB")
            read_config(folder)
        except UnsupportedModelError as error:
            return Row(architecture, REFUSED, [_one_line(error)])
        except Exception as error:
            return Row(architecture, NOT_COMPARED, [_one_line(error)])
        try:
            AutoModelForCausalLM.from_pretrained(folder)(torch.ones(1, 3, dtype=torch.long))
        except Exception as error:
            return Row(architecture, NOT_COMPARED, [_one_line(error)])
        return _compare_at_all_cuts(architecture, folder)


def compare_published(architecture: str) -> str:
    """Compare the causal LM that transformers loads from an architecture's published layout with its parts."""
    if _refusal(architecture) is not None:
        return "-"
    model_class = published_class(tiny_config(architecture))
    if model_class is None:
        return ITS_OWN
    with tempfile.TemporaryDirectory() as name:
        try:
            published_model(architecture).save_pretrained(name)
            # With `output_loading_info` it returns a pair, which its types do not say.
            loaded: Any = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True)
            whole, info = loaded
            whole(torch.ones(1, 3, dtype=torch.long), use_cache=False)
        except Exception as error:
            return f"{model_class.__name__}: {NOT_COMPARED} ({_one_line(error)})"
        outcome = _judge_published(Path(name), sorted(info["missing_keys"]))
    return f"{model_class.__name__}: {outcome}"


def _judge_published(folder: Path, missing: list[str]) -> str:
    try:
        pair = Comparison.load(folder)
    except CheckpointError as error:
        return f"{INCOMPLETE} ({name_some(missing, 2)})" if missing else f"{INEXACT} ({_one_line(error)})"
    differences = _differences(pair, ("logits", "left padding"), "")
    if missing:
        differences.append(f"{name_some(missing, 2)} are missing and were not refused")
    return f"{INEXACT} ({'; '.join(differences)})" if differences else EQUAL


def _compare_at_all_cuts(architecture: str, folder: Path) -> Row:
    pair = Comparison.load(folder)
    remarks = [f"transformers changes {name} after loading; the parts do the same" for name in changes_after_loading(pair)]
    bad = _differences(pair, tuple(CHECKS), "")
    for cut in OTHER_CUTS:
        try:
            pair = Comparison.load(folder, cut)
        except CutError as error:
            remarks.append(_one_line(error))
            continue
        bad += _differences(pair, AT_OTHER_CUTS, f" at {_name(cut)}")
    return Row(architecture, INEXACT if bad else EXACT, bad or remarks)


def _differences(pair: Comparison, checks: tuple[str, ...], where: str) -> list[str]:
    found = []
    for check in checks:
        try:
            difference = CHECKS[check](pair)
        except Exception as error:
            found.append(f"{check}{where}: {_one_line(error)}")
            continue
        if difference != 0.0:
            found.append(f"{check}{where}: {difference:.1e}")
    return found


def _name(cut: tuple[int, int]) -> str:
    return f"{cut[0]}/{cut[1]}"


def render(rows: list[Row]) -> str:
    """Return the document."""
    counts = Counter(row.status for row in rows)
    head = _HEAD.format(
        version=transformers.__version__,
        total=len(rows),
        exact=counts[EXACT],
        refused=counts[REFUSED],
        not_compared=counts[NOT_COMPARED],
        cut=f"{_name(MAIN_CUT)} of 6 layers",
        checks=", ".join(CHECKS),
        other_cuts=", ".join(_name(cut) for cut in OTHER_CUTS),
        at_other_cuts=", ".join(AT_OTHER_CUTS),
    )
    return head + "\n".join(row.render() for row in rows) + "\n"


def main() -> int:
    """Write the document; return 1 if an architecture that can be cut is not exact."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    rows = []
    for architecture in ARCHITECTURES:
        rows.append(compare(architecture))
        rows[-1].published = compare_published(architecture)
        print(rows[-1].render(), flush=True)
    DOCUMENT.write_text(render(rows), encoding="utf-8")
    return int(any(row.status == INEXACT or INEXACT in row.published for row in rows))


if __name__ == "__main__":
    sys.exit(main())
