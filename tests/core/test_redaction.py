"""What of a message is hidden: tokens, keys, passwords in URLs."""

import pytest

from hflm.core import mask_tokens


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("hf_abcdefgh12 and sk-proj-q7q7q7q7q7q7q7q7", "hf_(hidden) and sk-(hidden)"),
        ("postgresql://me:pw@host:5432/db", "postgresql://me:(hidden)@host:5432/db"),
        (
            "--set sweep.storage=mysql+pymysql://me:p/w#@1@host/db",
            "--set sweep.storage=mysql+pymysql://me:(hidden)@host/db",
        ),
        ("(https://me:pw@host/a@b)", "(https://me:(hidden)@host/a@b)"),
        # No password: a port, an address in a path, a mail.
        ("http://host:80/a@b", "http://host:80/a@b"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("see https://x.org/@me: a@b.org", "see https://x.org/@me: a@b.org"),
    ],
)
def test_secrets_are_masked_and_nothing_else(text, masked):
    assert mask_tokens(text) == masked
    assert mask_tokens([text, 3]) == [masked, 3]
