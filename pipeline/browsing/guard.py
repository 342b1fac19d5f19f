"""Answers only requests of the user who started `kinegraph browse`. Torch-free.

Other web pages in the user's browser, and other users of the machine, can send requests to 127.0.0.1. So a request must
have the secret of this server, must use a name of this server, and must not come from a page of another server.
"""

import hmac
from collections.abc import Sequence
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN = "token"
METHODS = ("GET", "HEAD")
HEADERS = {
    "content-security-policy": "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'self'; "
    "script-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
}
PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>kinegraph browse</title>'
    "<main><h1>kinegraph browse</h1><p>{}</p></main></html>"
)
NO_SECRET = (
    "This page needs the address that the command printed, with its token. Open that address once. "
    '<a href="/">Try again</a>'
)


def own_names(port: int) -> tuple[str, ...]:
    """Returns the values that the header Host of a request may have: the names of this machine, with the `port` of this
    server.
    """
    return tuple(f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]"))


class Guard:
    """Passes a request on to the web application `app` if the request keeps these rules, and refuses it otherwise. A
    Guard is an ASGI application (Python's interface of web servers).

    - The header Host must name this server, else the status is 421. This stops a domain name that points to 127.0.0.1.
    - The method must be GET or HEAD, else the status is 405.
    - A header Origin must name this server, else the status is 403.
    - The request must have the secret `token`, in the address or in a cookie, else the status is 403.

    An address with the token sets the cookie and redirects to the address without the token. Every answer gets the
    headers HEADERS. `port` is a part of the cookie's name, because all servers of 127.0.0.1 share cookies.
    """

    def __init__(self, app: ASGIApp, *, port: int, token: str) -> None:
        self._app, self._names, self._token = app, own_names(port), token
        self._cookie = f"kinegraph-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # no page opens a WebSocket

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _with(message["headers"])
            await send(message)

        answer = self._refusal(Request(scope)) or self._app
        await answer(scope, receive, with_headers)

    def _refusal(self, request: Request) -> Response | None:
        """Returns the answer to a request that breaks a rule, or None if the request keeps the rules."""
        names = request.headers.getlist("host")
        if len(names) != 1 or names[0].lower() not in self._names:
            return _refused(421, "This server answers only to 127.0.0.1 and localhost.")
        if request.method not in METHODS:
            return _refused(405, "This server only shows. It takes GET and HEAD.", {"Allow": ", ".join(METHODS)})
        origins = request.headers.getlist("origin")
        if any(origin.lower() not in {f"http://{name}" for name in self._names} for origin in origins):
            return _refused(403, "This request comes from a page of another server.")
        if TOKEN in request.query_params:
            return self._admitted(request)
        if not self._is_secret(request.cookies.get(self._cookie, "")):
            return _refused(403, NO_SECRET)
        return None

    def _admitted(self, request: Request) -> Response:
        if not self._is_secret(request.query_params[TOKEN]):
            return _refused(403, NO_SECRET)
        rest = urlencode([pair for pair in request.query_params.multi_items() if pair[0] != TOKEN])
        path = "/" + request.url.path.lstrip("/")  # two slashes would begin the name of another server
        answer = RedirectResponse(f"{path}?{rest}" if rest else path, 303)
        answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
        return answer

    def _is_secret(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode())


def _refused(status: int, words: str, headers: dict[str, str] | None = None) -> Response:
    return HTMLResponse(PAGE.format(words), status, headers)


def _with(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Returns the `headers` of an answer and the headers that every answer has."""
    has_own = any(name.lower() == b"cache-control" for name, _ in headers)
    added = HEADERS if has_own else HEADERS | {"cache-control": "private"}
    return [*headers, *((name.encode(), value.encode()) for name, value in added.items())]
