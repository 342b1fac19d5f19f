"""A browsed cache: all stages of six small videos, and a client that has been let in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.browsing.server import application, open_site
from kinegraph.pipeline.browsing.site import Site

PORT, TOKEN = 8123, "a secret"
Browsed = Callable[..., TestClient]


def client_of(site: Site) -> TestClient:
    """A client that calls the server by its name, and has not been let in."""
    app = application(site, port=PORT, token=TOKEN)
    return TestClient(app, base_url=f"http://127.0.0.1:{PORT}", follow_redirects=False)


@pytest.fixture
def browsed(tmp_path: Path) -> Browsed:
    """Opens a cache, keywords as of `open_site`, and returns a client that has the cookie."""

    def opened(cache: Cache, **options: Any) -> TestClient:
        folder = tmp_path / "films"
        folder.mkdir(exist_ok=True)
        client = client_of(open_site(cache.root, folder, **options))
        client.cookies.set(f"kinegraph-{PORT}", TOKEN)
        return client

    return opened
