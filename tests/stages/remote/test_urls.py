"""Which videos lie elsewhere, under which id, and which URLs are not to be written down."""

import pytest

from kinegraph.stages.remote.urls import UrlError, check_url, is_url, locate_video, origin

SECRETS = [
    "https://ann:s3cret@host/videos",
    "https://s3cret@host/videos",
    "ftp://ann:s3cret@host/videos",
    "https://host/v.mp4?X-Amz-Signature=s3cret",
]


@pytest.mark.parametrize("url", SECRETS)
def test_a_url_with_a_secret_is_refused_and_the_secret_kept(url: str) -> None:
    with pytest.raises(UrlError) as caught:
        check_url(url)
    assert "s3cret" not in str(caught.value)
    assert "host/v" in str(caught.value)
    assert "clips.parquet" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/what?.mp4",
        "abfs://container@account.dfs.core.windows.net/v.mp4",
        "https://host/a%3Fb@c.mp4",
        "videos/what?.mp4",
        "a:b@c/v.mp4",
    ],
)
def test_other_urls_and_paths_pass(url: str) -> None:
    assert check_url(url) == url


def test_a_chain_of_file_systems_is_refused() -> None:
    with pytest.raises(UrlError, match="chain of file systems"):
        check_url("simplecache::s3://bucket/v.mp4")


@pytest.mark.parametrize(
    ("root", "path", "expected"),
    [
        ("s3://b/videos", "left/v.mp4", ("left/v.mp4", "s3://b/videos/left/v.mp4")),
        ("s3://b/videos/", "./left//v.mp4", ("left/v.mp4", "s3://b/videos/left/v.mp4")),
        ("s3://b/videos", "s3://b/videos/left/v.mp4", ("left/v.mp4", "s3://b/videos/left/v.mp4")),
        ("s3://b/videos", "s3://c/v.mp4", ("s3://c/v.mp4", "s3://c/v.mp4")),
        ("s3://b/videos", "/data/v.mp4", ("/data/v.mp4", "/data/v.mp4")),
        ("/data", "left/v.mp4", ("left/v.mp4", "/data/left/v.mp4")),
        ("/data", "https://h/v.mp4", ("https://h/v.mp4", "https://h/v.mp4")),
        ("file:///data", "file:///data/v.mp4", ("v.mp4", "/data/v.mp4")),
    ],
)
def test_the_id_is_the_path_below_the_root(root: str, path: str, expected: tuple[str, str]) -> None:
    assert locate_video(root, path) == expected


def test_what_is_a_url() -> None:
    assert [is_url(path) for path in ("s3://b/v", "/data/v", "v", "file:///data/v")] == [True, False, False, False]
    assert origin("https://host:80/a/b") == "https://host:80"
