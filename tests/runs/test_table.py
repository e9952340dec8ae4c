"""The end of a run as a table."""

from __future__ import annotations

from typing import Any

import pytest

from splitlearn.runs import RunSummary, print_summary

METRICS: dict[str, Any] = {
    "val_loss_before": 3.0,
    "val_loss_after": 2.5,
    "val_perplexity_before": 20.0,
    "val_perplexity_after": 12.2,
    "train_s": 3.0,
    "train_tokens": 1000,
    "tokens_per_s": 400.0,
    "peak_rss_gib": 1.0,
    "peak_anonymous_gib": 0.5,
    "peak_gpu_gib": 0,
}
PART: dict[str, Any] = {
    "name": "bottom",
    "layers": "layers 0-1",
    "device": "cpu",
    "num_parameters": 1234,
    "num_trainable": 0,
    "weight_bytes": 2**30,
}


def shown(capsys: pytest.CaptureFixture[str], **values: Any) -> str:
    known: dict[str, Any] = {"model": "a/b", "folder": "/a/run", "split_point_1": 1, "split_point_2": 2, "parts": [PART]}
    print_summary(RunSummary(**{**known, "metrics": METRICS, **values}))
    return " ".join(capsys.readouterr().out.split())


def test_a_run_that_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys)
    for words in ("a/b cut at 1 / 2", "3.0000", "12.20", "layers 0-1", "1,234", "1.000", "1,000 tokens trained in 3 s"):
        assert words in text
    assert "(400 tokens/s in the steps)" in text and text.rstrip().endswith("files: /a/run")
    assert "stopped early" not in text and "padding" not in text and "GPU" not in text


def test_the_memory_of_parties_stands_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    memory = {"parts": {}, "parties": {"client": 3 * 2**29, "server": 2**30}, "planned_parties": {"client": 2**31}}
    text = shown(capsys, memory=memory)
    assert "kept activations: client 1.50 GiB (planned 2.00 GiB), server 1.00 GiB" in text
    assert "kept activations" not in shown(capsys)
    assert "server 1.00 GiB" in shown(capsys, memory={**memory, "planned_parties": None})


def test_what_is_not_always_there(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(
        capsys, stopped_early="it got no better", metrics={**METRICS, "train_padding_tokens": 1000, "val_loss_before": None}
    )
    assert "stopped early: it got no better" in text and "not measured" in text
    assert "1,000 positions of padding were computed beside them, 50% of all; data.packing=isolated" in text
    assert "nothing was held out" in shown(capsys, metrics={**METRICS, "val_loss_after": None})


def test_privacy_is_told_with_what_is_sent_in_the_clear(capsys: pytest.CaptureFixture[str]) -> None:
    known = {"epsilon": 12.34567, "delta": 1e-5, "in_the_clear": [], "noise_is_secret": True}
    clear = {"epsilon": None, "delta": 1e-5, "in_the_clear": ["cut_2/gradient", "cut_2/labels"]}
    text = shown(capsys, privacy={"train": clear, "held_out": known})
    assert "train examples have no epsilon: cut_2/gradient, cut_2/labels are sent in the clear" in text
    assert "held-out examples: epsilon 12.35 at delta 1e-05, each against any other" in text
    assert "epsilon" not in shown(capsys)


def test_noise_that_follows_from_the_seed_has_no_epsilon(capsys: pytest.CaptureFixture[str]) -> None:
    public: dict[str, Any] = {
        "epsilon": None,
        "epsilon_if_secret": 3.0,
        "delta": 1e-5,
        "in_the_clear": [],
        "noise_is_secret": False,
    }
    earlier: dict[str, Any] = {"epsilon": 3.0, "delta": 1e-5, "in_the_clear": []}
    for privacy in (public, earlier):
        text = shown(capsys, privacy={"train": privacy}, defence={"dchi": {"noise_is_secret": False}})
        assert "train examples have no epsilon: the noise follows from the run's public seed" in text
        assert "were it a secret, epsilon would be 3 at delta 1e-05" in text
        assert "the epsilon of defence.dchi does not hold" in text
    assert "dchi" not in shown(capsys, defence={"dchi": {"noise_is_secret": True}})


def test_what_noise_on_embeddings_changed_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def told(share: Any) -> str:
        return shown(capsys, defence={"dchi": {"noise_is_secret": True, "replaced_share": share}})

    assert "defence.dchi replaced 41.2% of the tokens by others" in told(0.412)
    assert "defence.dchi replaced no token: all was sent as without it" in told(0.0)
    assert "defence.dchi replaced unknown of the tokens" in told("many")


def test_the_time_over_a_network_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    link = {"bandwidth_mbps": 100, "rtt_ms": None, "step_s": 0.08, "waiting_share": 0.75}
    assert "over 100 Mbit/s with 0 ms there and back a step would take 0.08 s, 75% of it waiting" in shown(capsys, link=link)
    link |= {"bandwidth_mbps": None, "rtt_ms": 20}
    assert "over any bandwidth with 20 ms there and back" in shown(capsys, link=link)
    assert "there and back" not in shown(capsys, link={**link, "step_s": None}) + shown(capsys)
