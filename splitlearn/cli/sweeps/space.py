"""The settings that a search may choose, from overrides as Hydra's grammar has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

_LOG_TAG = "log"


@dataclass(frozen=True)
class Space:
    """What varies in a search, and what does not.

    Attributes:
        fixed: the overrides that all runs share.
        distributions: for each setting that varies what it may be.
    """

    fixed: list[str]
    distributions: dict[str, BaseDistribution]

    def overrides(self, chosen: dict[str, object]) -> list[str]:
        """Return the overrides of one run.

        Args:
            chosen: the value of each setting that varies.
        """
        return [*self.fixed, *(f"{name}={chosen[name]}" for name in self.distributions)]


def read_space(arguments: Sequence[str], loader: ConfigLoader) -> Space:
    """Read the overrides of a search; of two for one setting the later counts.

    ``choice(a,b)``, ``a,b`` and ``glob(*)`` are choices without an order. ``range(1,9)`` is whole numbers, ``range(0,1,0.1)``
    numbers with a step, ``interval(1e-5,1e-3)`` any between, ``int(interval(1,8))`` whole ones with both ends. The tag ``log``,
    as in ``tag(log,interval(1e-5,1e-3))``, has small ones tried as often as large ones.

    Args:
        arguments: the overrides.
        loader: Hydra's, which knows the names that ``glob`` stands for.

    Raises:
        ValueError: nothing varies, or a range is empty.
    """
    overrides = {
        override.get_key_element(): override for override in OverridesParser.create(loader).parse_overrides(list(arguments))
    }
    fixed = [override.input_line for override in overrides.values() if not override.is_sweep_override()]
    distributions = {name: _distribution(override) for name, override in overrides.items() if override.is_sweep_override()}
    if not distributions:
        raise ValueError(
            "nothing varies, so there is nothing to search; give a setting several values, such as split.point_1=range(1,4)"
        )
    return Space([line for line in fixed if line is not None], distributions)


def _distribution(override: Override) -> BaseDistribution:
    sweep = override.value()
    if isinstance(sweep, RangeSweep):
        return _range(override, sweep)
    if isinstance(sweep, IntervalSweep):
        low, high = sweep.start, sweep.end
        if low is None or high is None or not low < high:
            raise ValueError(f"{override.input_line} is empty; give the lower end first")
        is_log = _LOG_TAG in sweep.tags
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=is_log)
        return FloatDistribution(low, high, log=is_log)
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def _range(override: Override, sweep: RangeSweep) -> BaseDistribution:
    """Return the distribution of a range, whose end does not belong to it."""
    values = list(sweep.range())
    if not values:
        raise ValueError(f"{override.input_line} is empty; give the lower end first")
    low, high, step = min(values), max(values), abs(sweep.step)
    if all(isinstance(value, int) for value in (low, high, step)):
        return IntDistribution(int(low), int(high), step=int(step))
    return FloatDistribution(low, high, step=step)
