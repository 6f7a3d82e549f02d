"""Texts without the passwords and tokens in them."""

import re

NAMES = "password|passwd|pwd|token|secret|credential|api_?key|auth|sig|signature"


def hidden(text: str) -> str:
    """A text whose URLs show neither a password, nor a token where a user's name would be, nor one in their query."""
    text = re.sub(r"(://[^/\s:@]*:)[^@\s]+@", r"\1***@", text)
    text = re.sub(r"(https?://)[^/\s:@]+@", r"\1***@", text)
    return re.sub(rf"(?i)([?&;](?:{NAMES})=)[^&;\s'\"]+", r"\1***", text)


def is_secret(variable: str) -> bool:
    """Whether the value of an environment variable is never to be shown."""
    return re.search(rf"(?i)(^|_)({NAMES}|key)(_|$)", variable) is not None or variable == "PGPASSWORD"
