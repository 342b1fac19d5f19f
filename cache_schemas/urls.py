"""URLs with a secret in them, which are neither opened nor written down."""

import re

# A password may hold a / or an @. So may an object's name, and a colon: that stands behind the first /.
NAME = r"(?:\[[^]/@]*\]|(?!\[)[^/@:]*)"  # of a user or a host
PORT_OR_CHAIN = r"(?:\d{1,5}(?:[/?#]|$)|:\w+:)"  # a chain of file systems: zip://in.zip::s3://...
LOGIN = re.compile(
    rf"((?:https?)?://){NAME}:(?!{PORT_OR_CHAIN}).*@"
    r"|(s3://)[^/@]*:.*@"  # a bucket has no port
    r"|(https?://)[^/]*@"
)
QUERY = re.compile(r"https?://[^?]*\?")


def has_login(url: str) -> bool:
    """Whether a URL names a password, or, on the web, a user."""
    return LOGIN.search(url) is not None


def has_query(url: str) -> bool:
    """Whether it goes on after a `?` on the web, which may be a signature. In an object's name that is %3F."""
    return QUERY.search(url) is not None


def without_secret(url: str) -> str:
    """For messages."""
    return LOGIN.sub(r"\1\2\3...@", url).partition("?")[0]
