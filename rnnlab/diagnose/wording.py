"""Numbers in words, for the sentences of a diagnosis."""

import math


def power_of_ten(log10: float) -> str:
    """A number that float may not hold, from its logarithm: "2.5e-71", "0"."""
    if not math.isfinite(log10):
        return "0" if log10 < 0 else str(log10)
    exponent = math.floor(log10)
    digits = f"{10 ** (log10 - exponent):.1f}"
    if digits == "10.0":
        digits, exponent = "1.0", exponent + 1
    return f"{10**log10:.3g}" if -3 <= exponent <= 2 else f"{digits}e{exponent}"


def counted(count: int, what: str) -> str:
    """A count with its noun: "1 point", "2 points"."""
    return f"{count} {what}" + "s" * (count != 1)
