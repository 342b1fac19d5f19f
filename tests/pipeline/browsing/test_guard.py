"""Rules of the local server: who may call it, by which name, how, and what every answer says to the browser."""

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from kinegraph.pipeline.browsing.guard import HEADERS, Guard
from tests.pipeline.browsing.conftest import PORT, TOKEN

COOKIE = f"kinegraph-{PORT}"


def page(request: Request) -> Response:
    return PlainTextResponse("the page")


@pytest.fixture
def client() -> TestClient:
    app = Guard(Starlette(routes=[Route("/{path:path}", page)]), port=PORT, token=TOKEN)
    return TestClient(app, base_url=f"http://127.0.0.1:{PORT}", follow_redirects=False)


@pytest.fixture
def admitted(client: TestClient) -> TestClient:
    client.cookies.set(COOKIE, TOKEN)
    return client


@pytest.mark.parametrize("name", [f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"[::1]:{PORT}", f"LOCALHOST:{PORT}"])
def test_own_names_are_answered(admitted: TestClient, name: str) -> None:
    assert admitted.get("/", headers={"Host": name}).text == "the page"


@pytest.mark.parametrize(
    "name", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:1", f"127.0.0.1.evil.example:{PORT}", ""]
)
def test_another_name_is_refused_even_with_the_secret(admitted: TestClient, name: str) -> None:
    """So a name of the internet that points to this machine reads nothing."""
    refused = admitted.get(f"/?token={TOKEN}", headers={"Host": name})
    assert refused.status_code == 421
    assert "the page" not in refused.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed(admitted: TestClient, method: str) -> None:
    refused = admitted.request(method, "/")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    assert admitted.head("/").status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", f"https://127.0.0.1:{PORT}", "http://127.0.0.1:1"])
def test_pages_of_other_servers_are_refused(admitted: TestClient, origin: str) -> None:
    assert admitted.get("/", headers={"Origin": origin}).status_code == 403
    assert admitted.get("/", headers={"Origin": f"http://localhost:{PORT}"}).status_code == 200


def test_the_token_becomes_a_cookie_and_leaves_the_address(client: TestClient) -> None:
    let_in = client.get("/clips/3", params={"token": TOKEN, "split": "a b&c", "page": "2"})
    assert (let_in.status_code, let_in.headers["location"]) == (303, "/clips/3?split=a+b%26c&page=2")
    name, *attributes = let_in.headers["set-cookie"].split("; ")
    assert name.startswith(f"{COOKIE}=")
    assert {"HttpOnly", "SameSite=strict"} <= set(attributes)
    assert client.get(let_in.headers["location"]).text == "the page"


def test_the_way_on_stays_on_this_server(client: TestClient) -> None:
    let_in = client.get(f"http://127.0.0.1:{PORT}//evil.example/?token={TOKEN}")
    assert let_in.headers["location"] == "/evil.example/"


@pytest.mark.parametrize("address", ["/", "/?token=", "/?token=another", f"/?token={TOKEN}x", "/?token=%C3%A9"])
def test_nobody_is_let_in_without_the_secret(client: TestClient, address: str) -> None:
    refused = client.get(address)
    assert refused.status_code == 403
    assert "the page" not in refused.text
    assert "set-cookie" not in refused.headers


def test_a_cookie_of_another_port_or_another_value_is_refused(client: TestClient) -> None:
    client.cookies.set("kinegraph-1", TOKEN)
    assert client.get("/").status_code == 403
    client.cookies.set(COOKIE, "another")
    assert client.get("/").status_code == 403


@pytest.mark.parametrize(("address", "status"), [("/", 200), ("/?token=wrong", 403)])
def test_every_answer_has_the_headers(admitted: TestClient, address: str, status: int) -> None:
    answer = admitted.get(address)
    assert answer.status_code == status
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
    assert answer.headers["cache-control"] == "private"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {policy[kind] for kind in ("script-src", "style-src", "img-src", "media-src", "form-action")} == {"'self'"}
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
