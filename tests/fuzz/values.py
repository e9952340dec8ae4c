"""Values that somebody who means harm, or a damaged disk, puts where another one is expected."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

_PATHS = """. .. ../x ../../run/summary ../../../../etc/passwd /etc/passwd /proc/self/environ /dev/zero ~ ~root/x C:\\x a\\..\\b
    file:///etc/passwd https://example.com/?sig=1 config.json model-00001-of-00002.safetensors someone/kernel""".split()  # noqa: SIM905
_SIGNS = ["", " ", "a\0b", "a\nb", "a\r\tb", "\x1b[31mred", "\u202egpj", "\u2028", "\ufeff", "\ud800", "e\u0301", "\u2177"]
_SIGNS += ["x" * 300, "x" * 3000, "1" * 30, "${oc.env:HOME}", "{x}", "%s%n", "$(id)", "'\""]
_WORDS = """None null true nan inf -1 0 float32 bfloat16 float8_e4m3fn ones nn __class__ full frozen adapters norms llama gpt2
    mixtral bottom trunk top lora model last completed running eager flash_attention_2 default dynamic linear""".split()  # noqa: SIM905
_NUMBERS = [0, -0.0, 1, -1, 2, 3, 7, 0.5, 1e308, -1e308, 5e-324, 10**6, 10**9, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64]
_NUMBERS += [-(2**63), 10**30, float("inf"), float("-inf"), float("nan")]
NAMES = st.sampled_from([*_PATHS, *_SIGNS, *_WORDS]) | st.text(max_size=12)
_PLAIN = st.none() | st.booleans() | st.sampled_from(_NUMBERS) | NAMES | st.integers() | st.floats()
HOSTILE: st.SearchStrategy[Any] = _PLAIN | st.recursive(
    _PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
)


def changed_tree(draw: st.DrawFn, tree: Any, values: st.SearchStrategy[Any]) -> Any:
    """Draw a copy of nested plain values with one place changed: another value, none, another name, or one of elsewhere.

    Args:
        draw: hypothesis' function.
        tree: the values.
        values: what may come in a place.
    """
    tree = copy.deepcopy(tree)
    places = _places(tree)
    if not places:
        return draw(values)
    holder, key = places[draw(st.integers(0, len(places) - 1))]
    kind = draw(st.sampled_from(["value", "value", "value", "remove", "rename", "add", "move", "whole"]))
    if kind == "value":
        holder[key] = draw(values)
    elif kind == "remove":
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        holder[draw(NAMES)] = holder.pop(key)
    elif kind == "move":
        other, from_key = places[draw(st.integers(0, len(places) - 1))]
        holder[key] = copy.deepcopy(other[from_key])
    elif kind == "whole" and draw(st.integers(0, 9)) == 0:
        return draw(values)
    elif isinstance(holder, dict):
        holder[draw(NAMES)] = draw(values)
    else:
        holder.insert(key, draw(values))
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Return each place in nested lists and tables, as what holds it and its key there."""
    places: list[tuple[Any, Any]] = []
    waiting, seen = [tree], set()
    while waiting:
        holder = waiting.pop(0)
        # A value may hold itself, or another one twice.
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        if isinstance(holder, dict):
            keys: list[Any] = list(holder)
        elif isinstance(holder, list):
            keys = list(range(len(holder)))
        else:
            continue
        places += [(holder, key) for key in keys]
        waiting += [holder[key] for key in keys]
    return places
