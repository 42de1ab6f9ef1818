"""Cutting a text into sentences, well enough for the lead-3 and best-sentence baselines."""

import re

# After . ! ? (and a closing quote) before white space and no lower-case letter; not after an initial or a title;
# right after 。！？ (and a closing quote), where Chinese and Japanese put no space; at a line break.
CLOSING = "\"'”’)\\]」』）"
TITLES = "".join(rf"(?<!\b{title}\.)" for title in ("Mr", "Ms", "Mrs", "Dr", "St", "[A-Z]"))
END = re.compile(
    rf"(?<=[.!?]){TITLES}\s+(?![a-z])|(?<=[.!?][{CLOSING}])\s+(?![a-z])"
    rf"|(?<=[。！？])(?![。！？{CLOSING}])\s*|(?<=[。！？][{CLOSING}])\s*|\s*\n\s*"
)


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order.

    >>> sentences('Mr. Lee left. "Why?" he asked. 他走了。天黑了！')
    ['Mr. Lee left.', '"Why?" he asked.', '他走了。', '天黑了！']
    """
    return [part.strip() for part in END.split(text) if part.strip()]


def lead(text: str, count: int) -> str:
    """The text up to the end of its first `count` sentences; of a text with line breaks (a dialogue), its first lines.

    >>> lead("A: Hi. Ready?\\nB: Yes.\\nA: Good.", 2)
    'A: Hi. Ready?\\nB: Yes.'
    """
    parts = [line.strip() for line in text.split("\n") if line.strip()] if "\n" in text else sentences(text)
    end = 0
    for part in parts[:count]:
        end = text.index(part, end) + len(part)
    return text[:end].strip()
