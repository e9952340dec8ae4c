from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from splitlearn.app import export, generate, plan, train, verify
from splitlearn.settings import SettingError, check, compose


@pytest.mark.parametrize(
    ("command", "settings", "sentence"),
    [
        ("train", ["+learning_rate=1e-3"], "learning_rate is no setting of train; optimizer.learning_rate was probably meant"),
        ("train", ["optimizer.lr=1e-3"], "optimizer.lr is no setting of train; optimizer.learning_rate was probably meant"),
        ("train", ["batch_size=4"], "batch_size is no setting of train; data.batch_size was probably meant"),
        ("train", ["+num_train_epochs=2"], "num_train_epochs is no setting of train; trainer.max_epochs was probably meant"),
        ("train", ["+split.point_3=1"], "split.point_3 is no setting of train; split.point_1 was probably meant"),
        ("train", ["+data.sede=1"], "data.sede is no setting of train; data.seed was probably meant"),
        ("train", ["++model.foo=1"], "model.foo is no setting of train; model has name_or_path, revision, type, low_memory, "),
        ("train", ["+trainer.devices=2"], "trainer.devices is set by the project itself; set device or device_map"),
        ("train", ["+trainer.callbacks=[]"], "trainer.callbacks is set by the project itself; choose a group with callbacks="),
        ("train", ["+trainer.max_epoch=1"], "trainer.max_epoch is no setting of train; trainer.max_epochs was probably meant"),
        ("train", ["+callbacks.checkpoint.foo=1"], "callbacks.checkpoint.foo is no setting of train; callbacks.checkpoint has"),
        ("train", ["+callbacks.exact_resume.foo=1"], "callbacks.exact_resume.foo is no setting of train"),
        ("train", ["+callbacks.throughput.windw=1"], "callbacks.throughput.window was probably meant"),
        ("train", ["+callbacks.chekpoint.monitor=val_loss"], "callbacks.chekpoint names no class, so nobody reads it"),
        ("train", ["+logger.csv.foo=1"], "logger.csv.foo is no setting of train"),
        ("train", ["+peft.foo=1"], "peft.foo is no setting of train; peft has method, settings, "),
        ("train", ["+peft.parts.middle=false"], "peft.parts.middle is no setting of train"),
        ("train", ["+optimizer.parts.trunk.foo=1"], "optimizer.parts.trunk.foo is no setting of train"),
        ("train", ["+activation_cache.foo=1"], "activation_cache.foo is no setting of train"),
        ("train", ["data=text_files", "+data.prompt_field=a"], "data.prompt_field is no setting of train"),
        ("train", ["split=auto", "+split.max_gib.middle=1"], "split.max_gib.middle is no setting of train"),
        ("train", ["trainer.max_epochs=three"], "trainer.max_epochs is 'three'; give a whole number of at least -1, or null"),
        ("train", ["data.block_size=1.5"], "data.block_size is 1.5; give a whole number"),
        ("train", ["optimizer.learning_rate=fast"], "optimizer.learning_rate is 'fast'; give a number"),
        ("train", ["save_parts=oui"], "save_parts is oui; give true or false"),
        ("train", ["verbose=1"], "verbose is 1; give true or false"),
        ("train", ["seed=true"], "seed is True; give a whole number of at least 0"),
        ("train", ["max_logits_mib=0"], "max_logits_mib is 0; give a positive number, or null, or auto"),
        ("serve", ["max_logits_mib=much"], "max_logits_mib is 'much'; give a positive number, or null, or auto"),
        (
            "train",
            ["trainer.deterministic=maybe"],
            "trainer.deterministic is 'maybe'; choose one of true, false, warn, or null",
        ),
        ("train", ["seed=${sed}"], "seed is ${sed}, which cannot be resolved: Interpolation key 'sed' not found"),
        ("plan", ["+data.seed=1"], "data is no setting of plan"),
        ("plan", ["row=1"], "row is no setting of plan; rows was probably meant"),
        ("plan", ["rows=0"], "rows is 0; give a whole number of at least 1"),
        ("plan", ["must_fit=all"], "must_fit is 'all'; choose one of load, lora, full, or null"),
        ("verify", ["+model.foo=1"], "model.foo is no setting of verify"),
        ("verify", ["tolerance=-1"], "tolerance is -1; give a number of at least 0"),
        ("generate", ["run=a", "+max_tokens=1"], "max_tokens is no setting of generate; max_new_tokens was probably meant"),
        ("export", ["run=a", "+output=1"], "output is no setting of export"),
        ("prepare", ["sourse=a"], "sourse is no setting of prepare; source was probably meant"),
    ],
)
def test_what_nobody_reads_or_cannot_be_is_refused(command: str, settings: list[str], sentence: str) -> None:
    with pytest.raises(SettingError) as error:
        compose(*settings, config_name=command)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        ["trainer.limit_val_batches=0.5"],
        ["+trainer.limit_val_batches=2"],
        ["+seed=3"],
        ["compile={mode: max-autotune}"],
        ["peft=lora", "+peft.settings.rank_pattern={}"],
        ["peft=lora", "peft.parts.trunk={r: 4}"],
        ["+callbacks.rate._target_=lightning.pytorch.callbacks.LearningRateMonitor", "+callbacks.rate.logging_interval=step"],
        ["callbacks.checkpoint=null"],
        ["model.learning_rate=1"],
        ["data.text_field=body"],
    ],
)
def test_what_somebody_reads_is_taken_with_and_without_a_plus(settings: list[str]) -> None:
    compose(*settings)


def test_a_configuration_made_by_hand_is_checked_by_each_command(tmp_path: Path) -> None:
    for function, command, settings in (
        (train, "train", []),
        (plan, "plan", []),
        (verify, "verify", []),
        (generate, "generate", ["run=a", "prompt=b"]),
        (export, "export", ["run=a", "out=b"]),
    ):
        cfg = compose(*settings, config_name=command)
        cfg._set_flag("struct", False)
        cfg.seed_of_all = 1
        more: dict[str, Any] = {"folder": tmp_path / "run"} if function is train else {}
        with pytest.raises(SettingError, match=f"seed_of_all is no setting of {command}"):
            function(cfg, **more)
    assert not list(tmp_path.iterdir()), "it is refused before anything is written"


def test_settings_whose_values_come_from_hydra_wait_for_it() -> None:
    check(compose(), "train")


def test_text_with_a_dollar_and_braces_stands_for_itself() -> None:
    cfg = compose("data=instructions", "data.source=rows.jsonl")
    for text in ("It costs ${price}.", "It costs ${price", "${seed}"):
        cfg.data.prompt_template = text.replace("${", "\\${")
        check(cfg, "train")
        assert cfg.data.prompt_template == text
