from __future__ import annotations

from pathlib import Path

from splitlearn.cut import PART_NAMES, PartTraining, Placement, describe_threats
from splitlearn.report.threats import threats_in_words
from splitlearn.report.writing import write_report
from tests.report.written_runs import summary, write_run

TRAINED = dict.fromkeys(PART_NAMES, PartTraining.FULL)
THREATS = describe_threats(Placement.u_shaped(num_gpus=0), TRAINED)


def test_words_of_a_u_shape() -> None:
    words = threats_in_words(THREATS)
    assert words.sentences[2] == "The text is with client, the labels are with client; they leave no party."
    assert [row[0] for row in words.parties] == ["client", "server"]
    assert words.parties[1][3] == "nothing", "a server knows neither text nor labels"
    assert "server could recover labels from the gradients at cut 2." in words.exposures


def test_words_of_whoever_averages() -> None:
    words = threats_in_words(describe_threats(Placement.u_shaped(num_gpus=0), TRAINED, is_averaged=True))
    assert words.parties[-1] == [
        "whoever averages",
        "nothing",
        "nothing",
        "nothing",
        "weights of the bottom, weights of the top",
    ]
    assert words.exposures[-1] == "whoever averages could recover text from the weights that it averages."


def test_labels_in_the_clear_are_said() -> None:
    words = threats_in_words(THREATS | {"labels": "server", "labels_sent_at": "cut_1"})
    assert words.sentences[2].endswith("the labels are with server; they are sent in the clear at cut 1.")


def test_the_page_of_a_run_shows_them(tmp_path: Path) -> None:
    threats = THREATS | {"text": "<b>client</b>"}
    privacy = {"train": {"epsilon": None, "epsilon_if_secret": 3.0, "delta": 1e-5, "noise_is_secret": False}}
    defence = {"dchi": {"noise_is_secret": False}}
    write_report([write_run(tmp_path / "run", summary(2, 6, threat_model=threats, privacy=privacy, defence=defence))])
    page = (tmp_path / "run" / "report.html").read_text()
    assert "honest-but-curious" in page
    assert "server could recover text from the smashed data at cut 1." in page
    assert "Train examples have no epsilon: the noise follows from the run&#39;s public seed" in page
    assert "The epsilon of defence.dchi does not hold" in page
    assert "&lt;b&gt;client&lt;/b&gt;" in page and "<b>client</b>" not in page


def test_damaged_threat_models_say_less() -> None:
    assert threats_in_words({}).sentences == []
    words = threats_in_words({"parties": {"client": 3}, "exposures": "all", "public": 7})
    assert words.parties == [["client", *["nothing"] * 4]] and words.exposures == []
