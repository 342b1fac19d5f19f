"""Runs the web server of `kinegraph browse` until the command is stopped. Only this machine can reach the server.
Torch-free.
"""

import errno
import logging
import secrets
import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.words import sentence
from kinegraph.pipeline.browsing import clip_pages, pages
from kinegraph.pipeline.browsing.catalogue import Catalogue
from kinegraph.pipeline.browsing.frames import FramePictures
from kinegraph.pipeline.browsing.guard import TOKEN, Guard
from kinegraph.pipeline.browsing.neighbours import Neighbours
from kinegraph.pipeline.browsing.runs import shown_runs
from kinegraph.pipeline.browsing.site import FOLDER, Site, rendered
from kinegraph.pipeline.caches.clip_rules import rules_of
from kinegraph.pipeline.caches.videos_at_hand import VideosAtHand
from kinegraph.stages.errors import UsageError
from kinegraph.stages.pictures import theme

ADDRESS = "127.0.0.1"
END_SECONDS = 2  # time for unfinished answers when the command is stopped
CLIP = "/clips/{row:int}"
PAGES: dict[str, Callable[[Site, Request], Response]] = {
    "/": pages.grid,
    "/failures": pages.failures,
    "/runs": pages.runs,
    CLIP: clip_pages.clip,
    f"{CLIP}/middle.webp": clip_pages.middle,
    f"{CLIP}/frames/{{frame:int}}.webp": clip_pages.picture,
    f"{CLIP}/frames/{{frame:int}}/boxes/{{box:int}}": clip_pages.neighbours,
    f"{CLIP}/play": clip_pages.play,
    f"{CLIP}/film": clip_pages.film,
}
FILES = {"browse.css": "text/css", "browse.js": "text/javascript", "browse.svg": "image/svg+xml"}
log = logging.getLogger("kinegraph")


def open_site(cache: str, folder: Path, *, run: Path | None = None, videos: Path | None = None) -> Site:
    """Opens a cache and, if given, trained runs. Returns a Site, which has everything that the pages show.

    - `cache`: the path or URL of the cache.
    - `folder`: an empty folder for films.
    - `run`: the folder of a run or of several runs, or None.
    - `videos`: a folder in which the videos are looked for by their ids, or None.

    Raises CacheError if the cache cannot be read, ResultsError if `run` has no results, and UsageError if `videos` is
    no folder.
    """
    at_hand, runs = VideosAtHand(videos), shown_runs(run)
    catalogue = Catalogue(cache)
    frames = FramePictures(at_hand, folder, rules_of(catalogue.now().cache))
    return Site(catalogue=catalogue, frames=frames, neighbours=Neighbours(), runs=runs)


def application(site: Site, *, port: int, token: str) -> ASGIApp:
    """Returns the web application that serves `site`. A Guard refuses requests without the secret `token`. `port` is
    the port on which the server listens.
    """
    routes = [Route(path, partial(_answered, site, page)) for path, page in PAGES.items()]
    routes += [Route(f"/{name}", partial(_file, name, media_type)) for name, media_type in FILES.items()]
    handlers: dict[Any, Any] = {
        HTTPException: partial(_refused, site),
        CacheError: partial(_unreadable, site),
        Exception: partial(_broken, site),
    }
    return Guard(Starlette(routes=routes, exception_handlers=handlers), port=port, token=token)


def _answered(site: Site, page: Callable[[Site, Request], Response], request: Request) -> Response:
    return page(site, request)


def _file(name: str, media_type: str, request: Request) -> Response:
    content = (FOLDER / name).read_text(encoding="utf-8")
    return Response(theme.css() + content if name.endswith(".css") else content, media_type=media_type)


def _refused(site: Site, request: Request, error: HTTPException) -> Response:
    words = error.detail if error.status_code != 404 or error.detail != "Not Found" else "There is no such page."
    return rendered("message.html.j2", request, None, error.status_code, title="Not here", words=words)


def _unreadable(site: Site, request: Request, error: CacheError) -> Response:
    return rendered("message.html.j2", request, None, 503, title="The cache cannot be read", words=str(error))


def _broken(site: Site, request: Request, error: Exception) -> Response:
    log.error("%s: %s: %s", request.url.path, type(error).__name__, error)
    words = f"{type(error).__name__}: {sentence(error)} This is a fault in kinegraph. The other pages still work."
    return rendered("message.html.j2", request, None, 500, title="This page failed", words=words)


def serve(
    cache: str,
    *,
    run: Path | None = None,
    videos: Path | None = None,
    port: int = 0,
    on_ready: Callable[[str, int], None],
) -> None:
    """Serves the pages of a cache on this machine until a signal stops the process.

    - `cache`, `run`, `videos`: as in `open_site`.
    - `port`: the port. 0 means any free port.
    - `on_ready`: is called with (address with the secret, port) when the server answers.

    Raises the errors of `open_site`. Raises UsageError if the port is in use or refused. Ends with KeyboardInterrupt or
    Terminated.
    """
    with _listening(port) as listening, tempfile.TemporaryDirectory(prefix="kinegraph-browse-") as folder:
        site = open_site(cache, Path(folder), run=run, videos=videos)
        bound, token = int(listening.getsockname()[1]), secrets.token_urlsafe(32)
        config = uvicorn.Config(
            application(site, port=bound, token=token), lifespan="off", ws="none", log_config=None, access_log=False,
            server_header=False, proxy_headers=False, timeout_graceful_shutdown=END_SECONDS,
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), name="server", daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                stopping.sleep(0.01)
            on_ready(f"http://{ADDRESS}:{bound}/?{TOKEN}={token}", bound)
            while thread.is_alive():
                stopping.sleep(1.0)
        finally:
            server.should_exit = True
            thread.join(2 * END_SECONDS)
    raise RuntimeError("The server of browse has ended by itself. Give the command again.")


def _listening(port: int) -> socket.socket:
    """Returns a socket that listens on `port`, only for this machine. Raises UsageError if the system refuses the
    port.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((ADDRESS, port))
        listening.listen(128)
    except OSError as error:
        with suppress(OSError):
            listening.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"--port {port}: another program uses this port. Name another port, or leave --port out."
            ) from error
        raise UsageError(f"--port {port}: {error.strerror}. Name another port, or leave --port out.") from error
    return listening
