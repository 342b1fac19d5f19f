"""Recognises URLs that contain a secret, such as a password. The callers neither open such URLs nor write them down."""

import re

# A password may contain / and @. An object's name may contain /, @ and a colon, but the name starts after the first /.
NAME = r"(?:\[[^]/@]*\]|(?!\[)[^/@:]*)"  # the name of a user or a host
PORT_OR_CHAIN = r"(?:\d{1,5}(?:[/?#]|$)|:\w+:)"  # a chain of file systems: zip://in.zip::s3://...
LOGIN = re.compile(
    rf"((?:https?)?://){NAME}:(?!{PORT_OR_CHAIN}).*@"
    r"|(s3://)[^/@]*:.*@"  # a bucket has no port
    r"|(https?://)[^/]*@"
)
QUERY = re.compile(r"https?://[^?]*\?")


def has_login(url: str) -> bool:
    """Returns whether `url` contains a password. In an http or https URL, a user name alone counts, too."""
    return LOGIN.search(url) is not None


def has_query(url: str) -> bool:
    """Returns whether `url`, an http or https URL, has a query, the part after a `?`. A query may be a signature that
    allows access, so it counts as a secret.

    A `?` in the name of an object is written %3F in a URL, so it is no query.
    """
    return QUERY.search(url) is not None


def without_secret(url: str) -> str:
    """Returns `url` in a form that may be shown: `...` replaces the user name and the password, and the query is
    removed.
    """
    return LOGIN.sub(r"\1\2\3...@", url).partition("?")[0]
