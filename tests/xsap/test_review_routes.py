"""The routes of the review page and what keeps others out: hosts, tokens, origins, methods, bodies."""

import pytest
from starlette.testclient import TestClient

from tests.fixtures.reviews import TOKEN, SearchLinker, new_review, page_app, sample_mappings
from xsap.exchange.mapping import Status
from xsap.server.review_routes import MAX_REQUEST_BYTES
from xsap.server.review_store import read_review

HOME = "http://127.0.0.1:80"
ROUTES = ["about", "list", "facets", "term", "decide", "undo", "bulk", "search"]
OWN = {"origin": HOME, "sec-fetch-site": "same-origin"}


@pytest.fixture
def store(tmp_path):
    with_terms = new_review(tmp_path / "r.sqlite")
    yield with_terms
    with_terms.close()


def client_of(store, reviewer="Ann", *, token=TOKEN, linker=None):
    """A browser that opened the printed address."""
    client = TestClient(page_app(store, reviewer, linker=linker), base_url=HOME, follow_redirects=True)
    client.headers["host"] = "127.0.0.1:80"
    if token:
        assert client.get("/", params={"token": token}).status_code == 200
    return client


@pytest.fixture
def client(store):
    return client_of(store)


def post(client, path, body=None, **headers):
    return client.post(f"/api/{path}", json=body or {}, headers=OWN | headers)


def test_printed_address_becomes_a_strict_cookie_and_the_token_leaves_the_address(store):
    client = TestClient(page_app(store), base_url=HOME, follow_redirects=False)
    client.headers["host"] = "127.0.0.1:80"
    answer = client.get("/", params={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "Path=/", "SameSite=strict"} <= {part.strip() for part in cookie.split(";")}
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("path", ["/", "/static/review.js", "/static/review.css", *(f"/api/{name}" for name in ROUTES)])
@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], f"{TOKEN}é"])
def test_nothing_is_answered_without_the_token(store, path, token):
    client = client_of(store, token="")
    if token.isascii():
        client.cookies.set("xsap_review_80", token)
    call = client.post if path.startswith("/api") else client.get
    answer = call(path, params={"token": token} if path == "/" else None, headers=OWN)
    assert answer.status_code == 403
    assert "Fieber" not in answer.text
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:81", "localhost.evil.example:80", "", "127.0.0.1:80@evil.example"]
)
def test_another_host_is_not_answered_even_with_the_token(client, host):
    assert client.get("/", headers={"host": host}).status_code == 421
    assert post(client, "about", host=host).status_code == 421


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1:81",
        "https://127.0.0.1:80",
        "http://127.0.0.1:80.evil.example",
        None,
    ],
)
@pytest.mark.parametrize("route", ROUTES)
def test_other_origins_decide_and_read_nothing(store, client, route, origin):
    body = {"versions": [[1, 0]], "status": "approved"} if route == "decide" else {}
    headers = {} if origin is None else {"origin": origin}
    assert client.post(f"/api/{route}", json=body, headers=headers).status_code == 403
    assert store.query("SELECT count(*) FROM decisions") == [(0,)]


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_requests_that_a_browser_marks_as_foreign_are_refused(client, site):
    assert client.get("/", headers={"sec-fetch-site": site}).status_code == 403
    assert post(client, "undo", **{"sec-fetch-site": site}).status_code == 403


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("route", ROUTES)
def test_data_is_answered_to_post_alone(client, route, method):
    assert client.request(method, f"/api/{route}", headers=OWN).status_code == 405


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_body_of_a_form_is_refused(client, content_type):
    answer = client.post("/api/undo", content=b"{}", headers=OWN | {"content-type": content_type})
    assert answer.status_code == 415


def test_long_bodies_are_refused_with_and_without_a_length(client):
    long = b'{"text": "' + b"x" * MAX_REQUEST_BYTES + b'"}'
    headers = OWN | {"content-type": "application/json"}
    assert client.post("/api/search", content=long, headers=headers).status_code == 413
    chunks = (long[start : start + 65536] for start in range(0, len(long), 65536))
    assert client.post("/api/search", content=chunks, headers=headers).status_code == 413


@pytest.mark.parametrize("path", ["/", "/static/review.js", "/nothing", "/api/about"])
def test_every_answer_forbids_what_is_not_its_own(client, path):
    answer = post(client, "about") if path.startswith("/api") else client.get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert (
        answer.headers["x-content-type-options"],
        answer.headers["cache-control"],
        answer.headers["referrer-policy"],
    ) == ("nosniff", "no-store", "no-referrer")
    assert "access-control-allow-origin" not in answer.headers


def test_page_has_no_script_and_no_style_of_its_own(client):
    html, script = client.get("/").text, client.get("/static/review.js").text
    assert html.count("<script") == 1
    assert "style=" not in html
    assert " on" + "click=" not in html
    for sink in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "http://",
        "https://",
    ):
        assert sink not in script
        assert sink not in html
    assert len(script.splitlines()) < 500


BAD = [
    ("list", {"sort": "name; DROP TABLE terms"}), ("list", {"filter": {"unknown": 1}}), ("list", {"filter": {"min_confidence": 7}}),
    ("list", {"after": [1]}), ("term", {}), ("term", {"term": "x"}), ("decide", {"versions": []}), ("decide", {"versions": [[1, -1]]}),
    ("decide", {"versions": [[1, 0]], "status": "done"}), ("decide", {"versions": [[1, 0]], "targets": [{"concept_id": ""}]}),
    ("decide", {"versions": [[1, 0]], "comment": "x" * 4001}), ("bulk", {"status": "rejected"}), ("search", {}), ("undo", {"x": 1}),
    ("decide", []), ("about", "text"),
]  # fmt: skip


@pytest.mark.parametrize(("route", "body"), BAD)
def test_body_that_is_not_what_a_route_takes_is_refused_in_one_line(store, client, route, body):
    answer = client.post(f"/api/{route}", json=body, headers=OWN)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("the request: ")
    assert "\n" not in answer.json()["error"]
    assert store.query("SELECT count(*) FROM actions") == [(0,)]


@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"term": NaN}', b"[" * 5000])
def test_body_that_is_no_json_is_refused(client, body):
    assert client.post("/api/term", content=body, headers=OWN | {"content-type": "application/json"}).status_code == 400


def test_list_and_term_have_what_the_page_shows(client):
    page = post(client, "list", {"sort": "frequency"}).json()
    assert [row["code"] for row in page["rows"]] == [f"L{n:04}" for n in range(1, 10)]
    assert page["following"] is None
    shown = post(client, "term", {"term": 1}).json()["term"]
    assert (shown["name"], shown["language"], shown["version"]) == ("Kopfschmerz re. pulsierend", "de", 0)
    assert shown["columns"] == [["ward", "Neurology"], ["laboratory", "site 1"]]
    first = shown["candidates"][0]
    assert (first["name"], first["matched_name"], first["language"], first["confidence"]) == (
        "Throbbing headache",
        "pulsierender Kopfschmerz",
        "de",
        0.656,
    )
    assert post(client, "term", {"term": 77}).json() == {"term": None}


def test_decision_answers_with_the_row_and_the_next_term_and_is_in_the_file(store, client):
    chosen = {"concept_id": "A:101", "name": "Headache"}
    answer = post(
        client, "decide", {"versions": [[1, 0]], "status": "approved", "targets": [chosen], "following": 2}
    ).json()
    assert (answer["rows"][0]["status"], answer["rows"][0]["target"], answer["term"]["term"]) == (
        "approved",
        "Headache",
        2,
    )
    found = read_review(store.path)[0]
    assert (found.status, found.targets[0].concept_id, found.decided.by) == (Status.APPROVED, "A:101", "Ann")


def test_decision_on_an_older_version_is_answered_with_the_new_state(store, client):
    ben = client_of(store, "Ben")
    assert post(ben, "decide", {"versions": [[1, 0]], "status": "no_match"}).json()["changed"] == 1
    answer = post(client, "decide", {"versions": [[1, 0]], "status": "approved", "following": 1}).json()
    assert (answer["changed"], answer["conflicts"], answer["action"]) == (0, [1], 0)
    assert (answer["rows"][0]["status"], answer["term"]["decided"][0]) == ("no_match", "Ben")


def test_choice_that_is_not_possible_is_answered_with_its_line(client):
    answer = post(client, "decide", {"versions": [[8, 0]], "status": "approved"})
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "there is no concept to approve; choose one, or decide that no concept fits",
    )


def test_second_reviewer_confirms_over_http(store, client):
    post(client, "decide", {"versions": [[1, 0]], "status": "approved"})
    version = store.term(1).version
    refused = post(client, "decide", {"versions": [[1, version]], "confirm": True})
    assert refused.status_code == 400
    assert (
        post(client_of(store, "Ben"), "decide", {"versions": [[1, version]], "confirm": True}).json()["rows"][0][
            "confirmer"
        ]
        == "Ben"
    )


def test_bulk_shows_its_effect_and_acts_only_on_that(store, client):
    wanted = {"filter": {}, "status": "approved", "min_confidence": 0.9}
    shown = post(client, "bulk", wanted).json()
    assert shown["done"] is False
    post(client, "decide", {"versions": [[3, 0]], "status": "flagged"})
    again = post(client, "bulk", wanted | {"rows": shown["rows"]}).json()
    assert (again["done"], again["rows"]) == (False, shown["rows"] - 1)
    assert post(client, "bulk", wanted | {"rows": again["rows"]}).json()["done"] is True
    assert store.term(3).mapping.status is Status.FLAGGED
    assert post(client, "undo").json()["changed"] == again["rows"]


def test_search_asks_the_linker_and_says_why_there_is_nothing(store):
    linker = SearchLinker()
    client = client_of(store, linker=linker)
    found = post(client, "search", {"text": "dolor", "language": ""}).json()
    assert [each["name"] for each in found["candidates"]] == ["dolor 0", "dolor 1", "dolor 2"]
    assert linker.calls == ["dolor"]
    assert post(client, "search", {"text": "..."}).json() == {
        "candidates": [],
        "reason": "the mention has no letter, so it is not a term",
    }


def test_links_of_concepts_lead_to_their_vocabularies_and_nowhere_else(tmp_path):
    from tests.fixtures.reviews import candidate, mapping

    names = {
        "HP:0000118": "http://purl.obolibrary.org/obo/HP_0000118",
        "C0015967": "https://uts.nlm.nih.gov/uts/umls/concept/C0015967",
        "javascript:alert(1)": "",
        "A:1": "",
    }
    store = new_review(tmp_path / "r.sqlite", [mapping("x", "1", [candidate(each, "n") for each in names])])
    shown = post(client_of(store), "term", {"term": 1}).json()["term"]
    assert {each["concept_id"]: each["link"] for each in shown["candidates"]} == names
    store.close()


def test_all_of_a_long_term_is_shown_and_the_list_has_its_beginning(tmp_path):
    long = sample_mappings(1)[0].__class__("L1", "x" * 10_000)
    store = new_review(tmp_path / "r.sqlite", [long])
    client = client_of(store)
    assert len(post(client, "term", {"term": 1}).json()["term"]["name"]) == 10_000
    assert len(post(client, "list").json()["rows"][0]["name"]) == 300
    store.close()


def test_candidates_have_definitions_in_the_language_of_the_term(store):
    defined = {("A:100", "de"): "Pulsiert <b>."}
    app = page_app(store, define=lambda *asked: defined.get(asked))
    client = TestClient(app, base_url=HOME)
    client.get("/", params={"token": TOKEN}, headers={"host": "127.0.0.1:80"})
    client.headers["host"] = "127.0.0.1:80"
    candidates = post(client, "term", {"term": 1}).json()["term"]["candidates"]
    assert [each.get("definition") for each in candidates] == ["Pulsiert <b>.", None, None]
