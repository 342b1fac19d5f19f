"""What in a URL is taken for a secret."""

import pytest

from kinegraph.cache_schemas.urls import has_login, without_secret


@pytest.mark.parametrize("scheme", ["s3://", "https://", "sftp://", "zip://in.zip::s3://", "simplecache::https://"])
@pytest.mark.parametrize(
    "secret",
    ["s3cret", "s3/cret", "/s3cret", "s3@cret", "s3/c@ret", "s3?cret", "s3:cret", "7", "80:s3cret", "+s3/cr/et="],
)
@pytest.mark.parametrize("place", ["bucket/x", "host", "host:9000/x"])
def test_passwords(scheme: str, secret: str, place: str) -> None:
    url = f"{scheme}AKIA:{secret}@{place}"
    assert has_login(url)
    assert without_secret(url) == f"{scheme}...@{place}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://AKIA:12/cd@bucket/x", "s3://...@bucket/x"),
        ("https://s3cret@host/x", "https://...@host/x"),
        ("https://s3@cret@host/x", "https://...@host/x"),
        ("https://me:s3/cret@host/y:z@q", "https://...@q"),
        ("http://[::1]:s3cret@host/x", "http://...@host/x"),
        ("s3://me:s3cret@bucket/x?signature", "s3://...@bucket/x"),
    ],
)
def test_other_logins(url: str, shown: str) -> None:
    assert has_login(url)
    assert without_secret(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket",
        "s3://bucket/a:b@c",
        "s3://a:b/c",
        "http://host:8080/a@b",
        "http://host:8080/a:b@c",
        "http://[::1]:8080/a:b@c",
        "http://[::1]/a:b@c",
        "zip://in.zip::s3://bucket/a:b@c",
        "simplecache::s3://bucket/a@b",
        "sftp://me@host:22/x",
        "abfs://container@account/x",
        "file:///a:b@c",
        "/folder/a:b@c",
    ],
)
def test_no_login(url: str) -> None:
    assert not has_login(url)
    assert without_secret(url) == url
