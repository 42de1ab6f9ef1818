import pytest

from hflm.core import format_bytes, format_duration, format_quantity


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((124_439_808,), "124 M"),
        ((2.5e9,), "2.50 B"),
        ((2.5e9, "B"), "2.50 GB"),
        ((999_600,), "1.00 M"),
        ((950,), "950"),
        ((0,), "0"),
        ((0.25,), "0.25"),
        ((None,), "unknown"),
    ],
)
def test_quantities(arguments, text):
    assert format_quantity(*arguments) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (999_960, "1.00 MB"), (5e9, "5.00 GB")]
)
def test_bytes(size, text):
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (4000, "1 h 7 min"),
        (75, "1 min 15 s"),
        (59.7, "1 min"),
        (200_000, "2 d 8 h"),
        (86_399, "1 d"),
        (0.4, "1 s"),
        (3600, "1 h"),
        (None, "unknown"),
    ],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text
