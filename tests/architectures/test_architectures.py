from __future__ import annotations

import re
from collections import Counter

import pytest
import torch
import transformers

from splitlearn.model import UnsupportedModelError
from splitlearn.model.blueprint import draw_blueprint
from tests.architectures.catalogue import ARCHITECTURES, tiny_config, tiny_model
from tests.architectures.checks import CHECKS, Comparison, difference
from tests.architectures.table import (
    DOCUMENT,
    EQUAL,
    EXACT,
    INCOMPLETE,
    INEXACT,
    ITS_OWN,
    REFUSED,
    compare,
    compare_published,
)

# One for each thing that a cut can break; `make test-all` compares every architecture.
REPRESENTATIVE = {
    "bart": "an encoder-decoder's decoder, dropout by function before the layers",
    "bamba": "a pattern of layers that the configuration computes",
    "bert": "embeddings in one module outside the encoder",
    "bloom": "a norm after the embedding, positions from the mask",
    "falcon_h1": "attention and state space in one layer",
    "gpt_neox": "renamed checkpoint tensors",
    "granitemoe_swa": "rotary embeddings in a list",
    "gpt_oss": "fused experts, attention sinks",
    "jamba": "layers without a count of tokens in some parts",
    "mamba": "no attention at all, a cache of another name",
    "minimax": "a cache of its own kind",
    "nanochat": "one norm before and after the layers",
    "qwen3_next": "linear attention",
    "xglm": "positions computed, dropout by function",
}
REFUSALS = {
    "gemma3": "more than a text model",
    "gemma3n_text": "more from the embeddings than the hidden states",
    "longcat_flash": "no module list of",
    "rwkv": "ask for their number",
    "xlm": "several lists",
    "zaya": "parameters beside its layers",
}


# One for each thing that may lie beside a causal LM.
PUBLISHED = {
    "bert": f"BertForPreTraining: {EQUAL}",
    "llama4": f"Llama4ForConditionalGeneration: {EQUAL}",
    "mbart": f"MBartForConditionalGeneration: {INCOMPLETE} (lm_head.weight, model.decoder.embed_tokens.weight)",
    "qwen3_5": f"Qwen3_5ForConditionalGeneration: {EQUAL}",
    "roc_bert": f"RoCBertForPreTraining: {EQUAL}",
    "llama": ITS_OWN,
}


def rows_of_document() -> dict[str, tuple[str, str]]:
    lines = re.findall(
        r"^\| ((?!architecture )[\w-]+) \| \w+ \| ([\w ]+) \| ([^|]*) \| .* \|$",
        DOCUMENT.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    return {architecture: (status, published) for architecture, status, published in lines}


@pytest.mark.parametrize("architecture", REPRESENTATIVE)
def test_an_architecture_and_its_parts_are_the_same_model(architecture: str) -> None:
    row = compare(architecture)
    assert row.status == EXACT, row.remarks


@pytest.mark.filterwarnings("ignore:.*left out \\d+ tensors? that the model does not have")
@pytest.mark.parametrize("architecture", PUBLISHED)
def test_the_published_layout_loads_or_is_refused_for_what_it_lacks(architecture: str) -> None:
    assert compare_published(architecture) == PUBLISHED[architecture]


@pytest.mark.parametrize("architecture", REFUSALS)
def test_what_cannot_be_cut_is_refused_before_weights(architecture: str) -> None:
    with pytest.raises(UnsupportedModelError, match=REFUSALS[architecture]):
        draw_blueprint(tiny_config(architecture), torch.float32)


def test_the_document_has_a_row_for_every_architecture() -> None:
    rows = rows_of_document()
    written_for = re.search(r"causal LM of transformers ([\w.]+),", DOCUMENT.read_text(encoding="utf-8"))
    assert written_for is not None
    if written_for.group(1) == transformers.__version__:
        assert set(rows) == set(ARCHITECTURES)
    statuses = Counter(status for status, _ in rows.values())
    assert set(statuses) == {EXACT, REFUSED}
    assert statuses[EXACT] >= 140
    assert all(rows[architecture][0] == EXACT for architecture in REPRESENTATIVE)
    assert all(rows[architecture][0] == REFUSED for architecture in REFUSALS)
    assert not any(INEXACT in published for _, published in rows.values())
    assert all(rows[architecture][1] == PUBLISHED[architecture] for architecture in PUBLISHED)


@pytest.mark.parametrize("check", sorted(set(CHECKS) - {"5 steps", "bf16"}))
def test_each_check_notices_a_wrong_part(check: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Wrong weights must show in every check that is handed a pair; the two others load their own."""
    folder = tmp_path_factory.mktemp("mixtral")
    tiny_model("mixtral").save_pretrained(folder)
    pair = Comparison.load(folder)
    with torch.no_grad():
        for parameter in pair.split.trunk.parameters():
            parameter.add_(0.5)
    assert CHECKS[check](pair) > 0.0


def test_differences() -> None:
    assert difference(None, torch.zeros(1)) == float("inf")
    assert difference(torch.zeros(2), torch.zeros(1)) == float("inf")
    assert difference(torch.tensor([float("nan")]), torch.zeros(1)) == float("inf")
    assert difference(torch.ones(2), torch.zeros(2)) == 1.0
