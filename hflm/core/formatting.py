"""Numbers as people read them: quantities with an SI prefix, bytes, durations."""

import itertools

SI_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")


def format_quantity(value: float | None, unit: str = "") -> str:
    """Three significant digits with an SI prefix, or `unknown`. A count without unit has B (billion) in place of G.

    >>> format_quantity(124439808), format_quantity(2.5e9), format_quantity(2.5e9, "B"), format_quantity(None)
    ('124 M', '2.50 B', '2.50 GB', 'unknown')
    >>> format_quantity(950), format_quantity(0.25)
    ('950', '0.25')
    """
    if value is None:
        return "unknown"
    step = 0
    while abs(value) >= 999.5 and step < len(SI_PREFIXES) - 1:
        value, step = value / 1000, step + 1
    if step == 0:
        number = f"{value:.0f}" if value == int(value) else f"{value:.3g}"
    else:
        number = f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"
    prefix = "B" if step == 3 and not unit else SI_PREFIXES[step]
    return f"{number} {prefix}{unit}".rstrip()


def format_bytes(count: float | None) -> str:
    """`format_quantity` in bytes.

    >>> format_bytes(1234567), format_bytes(512)
    ('1.23 MB', '512 B')
    """
    return format_quantity(count, "B")


def format_duration(seconds: float | None) -> str:
    """The two largest units of a duration, or `unknown`.

    >>> format_duration(4000), format_duration(75), format_duration(200000), format_duration(0.4), format_duration(None)
    ('1 h 7 min', '1 min 15 s', '2 d 8 h', '1 s', 'unknown')
    """
    if seconds is None:
        return "unknown"
    whole = max(1, round(seconds))
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    for (size, unit), (smaller_size, smaller_unit) in itertools.pairwise(units):
        count, rest = divmod(round(whole / smaller_size), size // smaller_size)
        if count:
            return f"{count} {unit} {rest} {smaller_unit}" if rest else f"{count} {unit}"
    return f"{whole} s"
