"""What of Hydra is not public and this library uses."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString

from tests.internals.relied_upon import Internal, check


def an_override() -> Override:
    return OverridesParser.create().parse_override("prompt='a, b'")


INTERNALS = [
    Internal("hydra._internal.utils", "get_args_parser", "Hydra's own options beside the settings"),
    Internal("hydra.core.override_parser.overrides_parser", "OverridesParser", "whether Hydra can read an argument"),
    Internal("hydra.core.override_parser.types", "QuotedString", "whether a text was typed in quotes"),
    Internal("hydra.core.override_parser.types", "Override", "what a search may choose"),
    Internal("hydra.core.override_parser.types", "RangeSweep", "what a search may choose"),
    Internal("hydra.core.override_parser.types", "IntervalSweep", "what a search may choose"),
    Internal("hydra.plugins.launcher", "Launcher", "a search begins runs by whichever launcher"),
    Internal("hydra.core.override_parser.types", "Quote", "putting a text in quotes"),
    Internal(an_override, "_value", "what was typed, before it is converted"),
    Internal(
        "hydra.core.utils", "configure_log", "loggers set up after Lightning is imported", ("log_config", "verbose_config")
    ),
    Internal("hydra.experimental.callback", "Callback", "seeing a run's folder before Hydra makes it"),
    Internal("hydra.types", "RunMode", "telling a single run from a sweep"),
    Internal("hydra.core.config_loader", "ConfigLoader", "composing the configurations of a sweep's jobs"),
    Internal("hydra.core.utils", "setup_globals", "Hydra's resolvers in the process of a job"),
    Internal("hydra.core.utils", "JobRuntime", "the name of the command in the process of a job"),
    Internal("hydra.core.utils", "JobReturn", "what sweepers are told of a job", ("overrides", "working_dir")),
    Internal("hydra.core.utils", "JobStatus", "what sweepers are told of a job"),
    Internal(
        "hydra.core.utils",
        "run_job",
        "running a job as Hydra does",
        ("task_function", "config", "job_dir_key", "job_subdir_key", "hydra_context"),
    ),
    Internal("hydra.types", "HydraContext", "running a job as Hydra does", ("config_loader", "callbacks")),
    Internal("hydra._internal.callbacks", "Callbacks", "making Hydra's callbacks in the process of a job"),
]


@pytest.mark.parametrize("internal", INTERNALS, ids=str)
def test_it_is_there(internal: Internal) -> None:
    check("hydra-core", internal)


def test_quoted_texts_are_known_as_such() -> None:
    assert isinstance(an_override()._value, QuotedString)
    assert OverridesParser.create().parse_override("prompt=a")._value == "a"
