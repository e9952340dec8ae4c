"""What of PEFT is not public and this library uses."""

from __future__ import annotations

import pytest
from peft import LoraConfig
from peft.tuners.tuners_utils import _ExcludedModule, check_target_module_exists
from peft.utils.other import get_pattern_key

from tests.internals.relied_upon import Internal, check

TUNERS = "peft.tuners.tuners_utils"
OTHER = "peft.utils.other"

INTERNALS = [
    Internal(TUNERS, "BaseTunerLayer", "which modules are adapters"),
    Internal(TUNERS, "cast_adapter_dtype", "adapters of half-precision weights in float32", ("model", "adapter_name")),
    Internal(
        TUNERS, "check_target_module_exists", "which modules get adapters, by the unsplit model's names", ("config", "key")
    ),
    Internal(TUNERS, "_ExcludedModule", "which modules are left without adapters"),
    Internal(OTHER, "AuxiliaryTrainingWrapper", "modules that are trained as a whole beside adapters"),
    Internal(OTHER, "get_pattern_key", "ranks by the unsplit model's names", ("pattern_keys", "key_to_match")),
    Internal("peft.tuners.lora.layer", "ParamWrapper", "adapters on experts' parameters"),
    Internal("peft.mapping", "PEFT_TYPE_TO_CONFIG_MAPPING", "each method's settings"),
    Internal("peft.mapping", "PEFT_TYPE_TO_TUNER_MAPPING", "which methods put adapters into layers"),
]


@pytest.mark.parametrize("internal", INTERNALS, ids=str)
def test_it_is_there(internal: Internal) -> None:
    check("peft", internal)


def test_names_are_matched_as_they_were() -> None:
    config = LoraConfig(target_modules=["q_proj"], exclude_modules=r".*\.0\..*")
    assert check_target_module_exists(config, "model.layers.1.self_attn.q_proj")
    assert not check_target_module_exists(config, "model.layers.1.self_attn.k_proj")
    assert isinstance(check_target_module_exists(config, "model.layers.0.self_attn.q_proj"), _ExcludedModule)
    assert get_pattern_key(["v_proj", r"layers\.4\..*q_proj"], "model.layers.4.self_attn.q_proj") == r"layers\.4\..*q_proj"
