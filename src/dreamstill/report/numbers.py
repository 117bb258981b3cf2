"""Numbers as people read them: 94.3k, 1.2 MFLOP, 97.6 %, 1 min 12 s."""

from __future__ import annotations

_STEPS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def scaled(value: float) -> tuple[str, str]:
    """Three significant digits and the prefix they go with: ``(94.3, k)``."""
    # 999 600 is 1 M, not 1000 k: the unit is chosen after rounding.
    rounded = float(f"{value:.3g}")
    for step, prefix in _STEPS:
        if abs(rounded) >= step:
            return _three(rounded / step), prefix
    return _three(rounded), ""


def _three(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def count(value: float) -> str:
    """A count in short: ``94.3k``, ``1.2M``; below 1000 in full."""
    digits, prefix = scaled(value)
    return {"G": f"{digits}B", "T": f"{digits}T"}.get(prefix, f"{digits}{prefix}")


def unit(value: float, name: str) -> str:
    """A quantity with a decimal prefix: ``1.2 MFLOP``, ``377 kB``."""
    digits, prefix = scaled(value)
    return f"{digits} {prefix}{name}"


def plain(value: float) -> str:
    """Three significant digits, with a true minus sign."""
    return f"{value:.3g}".replace("-", "−")


def milliseconds(seconds: float) -> str:
    """``1,650 ms``, ``83.2 ms``."""
    value = 1e3 * seconds
    return f"{value:,.0f} ms" if value >= 99.95 else f"{plain(value)} ms"


def percent(share: float, digits: int = 1) -> str:
    """A share of one, in percent. What is not whole never rounds to 0 or 100."""
    text = f"{share * 100:.{digits}f}"
    least = 10.0**-digits
    if 0 < share < 1 and float(text) in (0.0, 100.0):
        return f"under {least:g} %" if float(text) == 0 else f"over {100 - least:g} %"
    return f"{text} %"


def points(difference: float) -> str:
    """A difference of two shares in percentage points, with its sign: ``-1.2 points``."""
    text = f"{abs(difference) * 100:.1f}"
    sign = "" if text == "0.0" else "−" if difference < 0 else "+"
    return f"{sign}{text} points"


def times(larger: float, smaller: float) -> str:
    """How many times ``smaller`` goes into ``larger``: ``7.6``, ``12``."""
    ratio = larger / smaller
    return f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:,.0f}"


def listing(names: list[str], most: int = 10) -> str:
    """Names in a sentence; those beyond ``most`` are counted."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most:,} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def sentence_case(text: str) -> str:
    """A text with a capital first and a stop at its end."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."
