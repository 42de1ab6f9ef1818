"""Text and tables for a terminal."""

from rich.console import Console

from hflm.core import plain_table


def test_no_number_of_a_table_is_cut_in_a_terminal_of_80_columns():
    headings = ("source", "texts", "bytes", "bytes per token", "tokens per word", "unknown", "part of a character")
    row = ("translation (English)", "2,000", "1,408,312", "4.32", "1.17", "10.00 %", "10.00 %")
    console = Console(width=80)
    with console.capture() as printed:
        console.print(plain_table("Tokenizer", headings, [row]))
    [line] = [line for line in printed.get().splitlines() if "translation" in line]
    assert all(cell in line for cell in row)
