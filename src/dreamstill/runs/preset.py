"""``--preset paper``: the settings that a method's paper or released code has where its defaults are ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreamstill.errors import InputError
from dreamstill.methods import get
from dreamstill.runs.settings import method_spec


def with_preset(method: Any, preset: str | None) -> Any:
    """A method with the settings that its paper published, where it says nothing else itself.

    Raises:
        InputError: there is no such preset, or the method has none.
    """
    if preset is None:
        return method
    if preset != "paper":
        raise InputError(f"preset is {preset!r}: the only one is paper")
    if not isinstance(method, str | Mapping):
        raise InputError("preset paper was given with a method object, which has all its settings: give the name")
    spec = method_spec(method)
    if spec["name"] == "auto":
        raise InputError(
            "preset paper needs a named method, and auto chooses settings for your teacher and budget: name one, as "
            "--method fast --preset paper"
        )
    cls = get(spec["name"])
    if cls.control:
        raise InputError(f"{spec['name']} is a control, and no paper has its settings: leave --preset out")
    return {**cls.paper_settings, **spec}
