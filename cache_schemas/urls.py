"""URLs with a secret in them, which are neither opened nor written down."""

import re

LOGIN = re.compile(r"://[^/@]*:[^/@]*@|https?://[^/@]*@")
QUERY = re.compile(r"https?://[^?]*\?")


def has_login(url: str) -> bool:
    """Whether a URL names a password, or, on the web, a user."""
    return LOGIN.search(url) is not None


def has_query(url: str) -> bool:
    """Whether it goes on after a `?` on the web, which may be a signature. In an object's name that is %3F."""
    return QUERY.search(url) is not None


def without_secret(url: str) -> str:
    """For messages."""
    return re.sub(r"://[^/@]*@", "://...@", url.partition("?")[0])
