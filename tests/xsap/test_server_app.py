"""The service over HTTP in this process: a recorded session of OpenRefine, errors, and hostile requests."""

import asyncio
import json
import re

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from tests.fixtures.reconciliation_schemas import judge
from tests.fixtures.service import ODD_ID, SCRIPT, mentions_of, small_linker
from xsap.errors import ConfigError
from xsap.linking.linker import Linker
from xsap.linking.rerank_hook import HttpReranker
from xsap.server.app import ServiceLimits, create_service
from xsap.server.requests import MAX_BODY_BYTES, RequestError, read_body

BASE = "http://localhost:8000"


@pytest.fixture(scope="module")
def linker():
    return small_linker()


@pytest.fixture(scope="module")
def client(linker):
    app = create_service(linker, linker.index, limits=ServiceLimits(50, 500))
    with TestClient(app, base_url=BASE) as opened:
        yield opened


def call_02(client, queries, **fields):
    return client.post("/reconcile/0.2", data={"queries": json.dumps(queries)} | fields)


# A session of OpenRefine 3.10: what its client sends, in its order


def test_a_session_of_openrefine_gets_what_it_reads(client):
    answer = client.get("/reconcile/0.2", headers={"Origin": "http://127.0.0.1:3333"})
    assert answer.headers["access-control-allow-origin"] == "*"
    service = answer.json()
    assert judge("0.2", "manifest", service) == []

    first = ["Fieber", "Cold", "Hohes Fieber", "xyz"]  # it asks for the types of the first ten distinct cells
    answer = call_02(client, {f"q{i}": {"query": text, "limit": 3} for i, text in enumerate(first)})
    assert judge("0.2", "reconciliation-result-batch", answer.json()) == []
    assert list(answer.json()) == ["q0", "q1", "q2", "q3"]
    assert {kind["id"] for each in answer.json()["q0"]["result"] for kind in each["type"]} == {"T184"}

    query = {"query": "Fieber", "type": "T184", "type_strict": "should", "properties": [{"pid": "lang", "v": "de"}]}
    answer = call_02(client, {"q0": query, "q1": {"query": "Cold", "type": "T047", "type_strict": "should"}})
    found = answer.json()
    assert judge("0.2", "reconciliation-result-batch", found) == []
    assert (found["q0"]["result"][0]["id"], found["q0"]["result"][0]["match"]) == ("HP:1", True)
    assert (found["q1"]["result"][0]["id"], found["q1"]["result"][0]["match"]) == ("HP:4", True)
    assert sum(each["match"] for each in found["q1"]["result"]) == 1

    place = service["suggest"]["entity"]
    answer = client.get(place["service_url"] + place["service_path"], params={"prefix": "Fie"})
    assert judge("0.2", "suggest-entities-response", answer.json()) == []
    assert answer.json()["result"][0]["id"] == "HP:1"

    page = client.get(service["preview"]["url"].replace("{{id}}", "HP:1"))  # encodeURI leaves / and : as they are
    assert page.status_code == 200
    assert "x-frame-options" not in page.headers
    assert "Fieber" in page.text

    place = service["extend"]["propose_properties"]
    proposed = client.get(place["service_url"] + place["service_path"], params={"type": "T184", "limit": "20"})
    assert judge("0.2", "data-extension-property-proposal", proposed.json()) == []
    extension = {"ids": ["HP:1", "HP:4"], "properties": [{"id": "names:de"}, {"id": "codes:ICD10"}]}
    answer = client.post("/reconcile/0.2", data={"extend": json.dumps(extension)})
    assert judge("0.2", "data-extension-response", answer.json()) == []
    assert answer.json()["rows"] == {
        "HP:1": {"names:de": [{"str": "Fieber"}], "codes:ICD10": []},
        "HP:4": {"names:de": [{"str": "Erkältung"}], "codes:ICD10": [{"str": "J00"}]},
    }


def test_a_session_of_the_draft_gets_valid_answers(client):
    service = client.get("/reconcile/1.0").json()
    assert judge("1.0", "manifest", service) == []
    conditions = [{"matchType": "name", "propertyValue": "Cold"}]
    required = [
        *conditions,
        {"matchType": "property", "propertyId": "types", "propertyValue": "T047", "required": True},
    ]
    nowhere = [*conditions, {"matchType": "property", "propertyId": "types", "propertyValue": "T999", "required": True}]
    by_id = [{"matchType": "id", "propertyValue": ODD_ID}]
    without = [{"matchType": "property", "propertyId": "types", "propertyValue": "T047"}]
    queries = [{"conditions": each} for each in (conditions, required, nowhere, by_id, without)]
    answer = client.post("/reconcile/1.0/match", json={"queries": queries}).json()
    assert judge("1.0", "reconciliation-result-batch", answer) == []
    ids = [[each["id"] for each in result["candidates"]] for result in answer["results"]]
    assert ids[0][:2] == ["HP:3", "HP:4"]
    assert len(ids[0]) == 5
    assert ids[1:] == [["HP:4"], [], [ODD_ID], []]
    for prefix in ("HP:4", ODD_ID):
        found = client.get("/reconcile/1.0/suggest/entity", params={"prefix": prefix}).json()
        assert judge("1.0", "suggest-entities-response", found) == []
        assert found["result"][0]["id"] == prefix
    assert client.get("/reconcile/1.0/preview", params={"id": ODD_ID}).status_code == 200
    extension = {"ids": ["HP:4"], "properties": [{"id": "preferred_name"}]}
    answer = client.post("/reconcile/1.0/extend", json=extension).json()
    assert judge("1.0", "data-extension-response", answer) == []
    assert answer["rows"] == [{"id": "HP:4", "properties": [{"id": "preferred_name", "values": [{"str": "Cold"}]}]}]
    proposed = client.get("/reconcile/1.0/extend/propose", params={"type": "T047", "limit": 2}).json()
    assert judge("1.0", "data-extension-property-proposal", proposed) == []
    assert len(proposed["properties"]) == 2
    for kind, schema in (("type", "types"), ("property", "properties")):
        answer = client.get(f"/reconcile/1.0/suggest/{kind}", params={"prefix": "t"}).json()
        assert judge("1.0", f"suggest-{schema}-response", answer) == []


@pytest.mark.parametrize("version", ["0.2", "1.0"])
def test_suggestions_go_on_where_the_last_ones_ended(client, version):
    path = f"/reconcile/{version}/suggest/entity"
    every = client.get(path, params={"prefix": "Finding", "limit": 12}).json()["result"]
    pages = [
        client.get(path, params={"prefix": "Finding", "limit": 5, "offset": start}).json()["result"] for start in (0, 5)
    ]
    assert [*pages[0], *pages[1]] == every[:10]
    assert client.get(path, params={"prefix": "  "}).json() == {"result": []}


def test_a_manifest_names_the_address_that_it_was_asked_at(client):
    for host in ("localhost:8000", "127.0.0.1:9", "[::1]:8000"):
        answer = client.get("/reconcile/0.2/", headers={"Host": host}).json()
        assert answer["view"]["url"] == f"http://{host}/reconcile/0.2/view/{{{{id}}}}"


# Cross-origin access


def test_only_the_reconciliation_api_is_open_to_other_origins(client):
    headers = {"Origin": "https://x.org", "Access-Control-Request-Method": "POST"}
    for path in ("/reconcile/0.2", "/reconcile/1.0/match", "/reconcile/1.0/suggest/entity"):
        answer = client.options(path, headers=headers)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "Content-Type" in answer.headers["access-control-allow-headers"]
    for path in ("/reconcile/1.0/nowhere", "/reconcile/0.2/preview/none", "/reconcile/1.0/match"):  # errors, too
        assert client.get(path).headers["access-control-allow-origin"] == "*"
    for path in ("/link", "/health", "/metrics", "/", "/reconcile"):
        for answer in (client.get(path, headers=headers), client.options(path, headers=headers)):
            assert "access-control-allow-origin" not in answer.headers


def test_jsonp_calls_a_function_and_nothing_else(client):
    answer = client.get("/reconcile/0.2", params={"callback": "jsonp_12.call$"})
    assert answer.headers["content-type"].startswith("text/javascript")
    assert answer.headers["x-content-type-options"] == "nosniff"
    body = re.fullmatch(r"/\*\*/jsonp_12\.call\$\((.*)\);", answer.text, re.DOTALL)
    assert judge("0.2", "manifest", json.loads(body[1])) == []
    assert "<" not in answer.text
    for callback in ("alert(1)//", "a;b", "a b", "", "x" * 2000, "a.", "<script>", "é", "a\n"):
        refused = client.get("/reconcile/0.2", params={"callback": callback})
        assert refused.status_code == 400
        assert refused.headers["content-type"] == "application/json"
    assert client.get("/reconcile/1.0", params={"callback": "f"}).headers["content-type"] == "application/json"


def test_other_hosts_are_refused_on_this_computer_alone(linker):
    with TestClient(create_service(linker, linker.index), base_url=BASE) as local:
        for host in (
            "evil.org",
            "localhost.evil.org",
            "127.0.0.1.evil.org",
            "10.0.0.1",
            "",
            "a b",
            "localhost:x",
            "http://localhost",
        ):
            for path in ("/health", "/link", "/reconcile/0.2"):
                answer = local.get(path, headers={"Host": host})
                assert answer.status_code == 400
                assert "concepts" not in answer.text
        for host in ("localhost", "127.0.0.1:8000", "[::1]:1", "127.1.2.3"):
            assert local.get("/health", headers={"Host": host}).status_code == 200
    with TestClient(create_service(linker, linker.index, local_only=False), base_url=BASE) as public:
        assert public.get("/health", headers={"Host": "linker.example.org"}).status_code == 200
        assert public.get("/reconcile/0.2", headers={"Host": "x/?<script>"}).status_code == 400


def test_behind_a_proxy_the_service_states_its_public_address(linker):
    url = "https://linker.example.org/xsap/"
    with TestClient(create_service(linker, linker.index, public_url=url), base_url=BASE) as behind:
        for host in ("linker.example.org", "localhost:8000"):
            found = behind.get("/reconcile/0.2", headers={"Host": host}).json()
            assert found["preview"]["url"] == "https://linker.example.org/xsap/reconcile/0.2/preview/{{id}}"
            stated = behind.get("/fhir/r4/metadata", headers={"Host": host}).json()["implementation"]["url"]
            assert stated == "https://linker.example.org/xsap/fhir/r4"
        assert behind.get("/health", headers={"Host": "other.example.org"}).status_code == 400


@pytest.mark.parametrize(
    "url",
    ["linker.example.org", "ftp://x", "https://", "https://a b", "https://x/?q", "https://u:p@x", "javascript://x y"],
)
def test_an_address_that_is_none_is_refused(linker, url):
    with pytest.raises(ConfigError, match="expected --public-url to be an address"):
        create_service(linker, linker.index, public_url=url)


# POST /link


def test_link_answers_as_the_linker_does(client, linker):
    mentions = [*mentions_of(48), None, "Fieber"]
    languages = [["en", "German", None][i % 3] for i in range(50)]
    for body in (
        {"mentions": mentions},
        {"mentions": mentions, "languages": languages, "top_k": 3},
        {"mentions": mentions, "languages": "de", "top_k": 1},
        {"mentions": mentions, "filter": {"semantic_types": ["T184"], "languages": ["de", "en"]}},
        {"mentions": []},
    ):
        answer = client.post("/link", json=body)
        assert answer.status_code == 200
        own = body | {"languages": [body["languages"]] * 50} if isinstance(body.get("languages"), str) else body
        expected = [each.to_dict() for each in linker.link(own.pop("mentions"), own.pop("top_k", 5), **own)]
        assert answer.json()["results"] == json.loads(json.dumps(expected))


def test_link_takes_out_notes_and_writes_out_abbreviations(client, linker):
    mentions, contexts = ["V.a. FBR", "XYZ", None], [None, "Xylem yield zone (XYZ)", None]
    body = {
        "mentions": mentions,
        "languages": "de",
        "clean": True,
        "abbreviations": {"FBR": "Fieber"},
        "context": contexts,
    }
    first, second, third = client.post("/link", json=body).json()["results"]
    assert first["cleaned"]["suspected"]
    assert first["expansion"] == {"text": "Fieber", "source": "table"}
    assert first["candidates"] == json.loads(json.dumps(linker.link("Fieber", languages="de").to_dict()))["candidates"]
    assert second["expansion"] == {"text": "Xylem yield zone", "source": "context"}
    assert third["reason"]
    plain = client.post("/link", json={"mentions": mentions, "context": contexts}).json()["results"]
    assert "cleaned" not in plain[0]
    assert "expansion" not in plain[1]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"mentions": ["x"], "context": ["a", "b"]}, 400, "context for each mention"),
        ({"mentions": ["x"], "abbreviations": ["a"]}, 400, "abbreviations"),
        ({}, 400, "mentions"),
        ([], 400, "the body"),
        ({"mentions": "Fieber"}, 400, "mentions"),
        ({"mentions": [3]}, 400, "mentions.0"),
        ({"mentions": ["x"], "top_k": 0}, 400, "top_k"),
        ({"mentions": ["x"], "top_k": 1000}, 400, "top_k"),
        ({"mentions": ["x"], "top_k": True}, 400, "top_k"),
        ({"mentions": ["x"], "languages": ["de", "en"]}, 400, "language for each mention"),
        ({"mentions": ["x"], "languages": "Klingon"}, 400, "unknown language"),
        ({"mentions": ["x"], "filter": {"type": ["a"]}}, 400, "filter.type"),
        ({"mentions": ["x"], "filter": {"semantic_types": ["T999"]}}, 400, "no semantic type 'T999'"),
        ({"mentions": ["x"], "filter": {"groups": ["NONE"]}}, 400, "unknown semantic group"),
        ({"mentions": ["x"], "min_confidence": 2}, 400, "min_confidence"),
        ({"mentions": ["x"], "min_confidence": 0.5}, 400, "calibrated index"),
        ({"mentions": ["x"], "model": "y"}, 400, "model"),
        ({"mentions": ["x"] * 51}, 413, "at most 50 mentions"),
    ],
)
def test_what_link_cannot_do_is_one_line(client, body, status, words):
    answer = client.post("/link", json=body)
    assert answer.status_code == status
    assert words in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


# Hostile requests


BODIES = [
    b"", b"{", b"[" * 100_000, b'{"mentions":' * 50_000, b"\xff\xfe", b'{"mentions": ["\\ud800"]}', b'{"mentions": [NaN]}',
    b'{"mentions": [' + b"9" * 100_000 + b"]}", b"null", b'"' + b"a" * 100_000 + b'"', b"\x00" * 1000,
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=lambda body: f"{body[:12]!r} {len(body)}")
def test_bodies_that_are_no_json_are_refused(client, body):
    for path in ("/link", "/reconcile/1.0/match", "/reconcile/1.0/extend"):
        answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400
        assert len(answer.json()["error"]) < 500
    for field in ("queries", "extend"):
        answer = client.post("/reconcile/0.2", data={field: body})
        assert answer.status_code == 400
        assert len(answer.json()["error"]) < 500


def test_bodies_of_another_type_are_refused(client):
    for path, kinds in (
        ("/link", ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "json", "application/jsonx")),
        ("/reconcile/0.2", ("text/plain", "multipart/form-data; boundary=x", "application/json")),
    ):  # fmt: skip
        for kind in kinds:
            answer = client.post(path, content=b"{}", headers={"Content-Type": kind})
            assert (answer.status_code, "expected a body with Content-Type" in answer.json()["error"]) == (415, True)
    answer = client.post(
        "/link", content=b'{"mentions": []}', headers={"Content-Type": "application/json; charset=utf-8"}
    )
    assert answer.status_code == 200


def test_long_bodies_are_refused_before_they_are_read_whole(client):
    sent = 0

    def endless():
        nonlocal sent
        for _ in range(10_000):
            sent += 1 << 16
            yield b"x" * (1 << 16)

    answer = client.post("/link", content=b"x" * (MAX_BODY_BYTES + 1), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    answer = client.post("/link", content=endless(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_a_body_that_does_not_arrive_is_given_up():
    async def receive():
        await asyncio.sleep(60)

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
    with pytest.raises(RequestError) as caught:
        asyncio.run(read_body(Request(scope, receive), media_types=["application/json"], seconds=0.01))
    assert caught.value.status == 408


def test_forms_are_bounded_and_unicode(client):
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for body in (b"&".join(b"a%d=1" % i for i in range(30)), b"queries=%ff", b"\xff=1", b"other=1", b"queries="):
        assert client.post("/reconcile/0.2", content=body, headers=form).status_code == 400


@pytest.mark.parametrize(
    "parameters", [{"limit": "x"}, {"limit": "0"}, {"limit": "-1"}, {"offset": "1e9"}, {"limit": "9" * 100}]
)
def test_numbers_in_addresses_are_checked(client, parameters):
    answer = client.get("/reconcile/1.0/suggest/entity", params={"prefix": "a"} | parameters)
    assert answer.status_code == 400


def test_batches_are_bounded(client):
    queries = {f"q{i}": {"query": "x"} for i in range(51)}
    assert call_02(client, queries).status_code == 413
    conditions = [{"matchType": "name", "propertyValue": "x"}]
    body = {"queries": [{"conditions": conditions}] * 51}
    assert client.post("/reconcile/1.0/match", json=body).status_code == 413
    assert client.post("/reconcile/1.0/extend", json={"ids": ["a"] * 51, "properties": []}).status_code == 413


def test_odd_terms_are_answered(client):
    texts = [
        "",
        " ",
        "\u0000",
        "\u202e",
        SCRIPT,
        "'; DROP TABLE names; --",
        "x" * 5000,
        "{{id}}",
        "../../etc/passwd",
        "حمى",
        "👩‍⚕️",
        "n/a",
        "%00",
    ]
    found = call_02(client, {f"q{i}": {"query": text} for i, text in enumerate(texts)})
    assert found.status_code == 200
    assert judge("0.2", "reconciliation-result-batch", found.json()) == []
    assert found.json()["q9"]["result"][0]["id"] == "HP:5"
    for text in texts:
        for kind in ("entity", "property", "type"):
            answer = client.get(f"/reconcile/0.2/suggest/{kind}", params={"prefix": text})
            assert answer.status_code == 200


def test_a_name_with_a_script_is_text_on_the_page(client):
    for path in (
        f"/reconcile/0.2/preview/{ODD_ID}".replace("%", "%25"),
        f"/reconcile/0.2/view/{ODD_ID}".replace("%", "%25"),
    ):
        page = client.get(
            path.replace("%25", "%2525")
        )  # the client of these tests decodes once more than a server does
        assert page.status_code == 200, path
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert "<script" not in page.text
    missing = client.get(f"/reconcile/0.2/preview/{SCRIPT}")
    assert missing.status_code == 404
    assert missing.headers["content-type"] == "application/json"


def test_unknown_paths_and_methods_are_json_errors(client):
    for method, path, status in (
        ("GET", "/", 404), ("GET", "/reconcile/0.3", 404), ("GET", "/link", 405), ("DELETE", "/reconcile/0.2", 405), ("PUT", "/health", 405),
        ("GET", "/reconcile/1.0/match", 405), ("GET", "//", 404), ("GET", "/reconcile/0.2/../../etc", 404),
    ):  # fmt: skip
        answer = client.request(method, path)
        assert answer.status_code == status
        assert set(answer.json()) == {"error"}


def test_a_fault_of_the_service_is_status_500_without_a_traceback(caplog):
    class Broken:
        def link(self, *args, **options):
            raise RuntimeError("secret path /home/x")

    index = small_linker().index
    with TestClient(create_service(Broken(), index), base_url=BASE, raise_server_exceptions=False) as broken:
        for answer in (broken.post("/link", json={"mentions": ["x"]}), call_02(broken, {"q": {"query": "x"}})):
            assert answer.status_code == 500
            assert "secret" not in answer.text
        assert broken.get("/health").status_code == 200
    assert "secret" in caplog.text


# FHIR


def test_fhir_operations_are_answered_by_get_and_by_post(client):
    lookup = {"system": "http://hl7.org/fhir/sid/icd-10", "code": "J00"}
    answer = client.get("/fhir/r4/CodeSystem/$lookup", params=lookup)
    assert answer.headers["content-type"] == "application/fhir+json"
    assert answer.json()["resourceType"] == "Parameters"
    assert {"name": "display", "valueString": "Cold"} in answer.json()["parameter"]
    parameters = [{"name": "system", "valueUri": lookup["system"]}, {"name": "code", "valueCode": "J00"}]
    for kind in ("application/fhir+json", "application/json; charset=utf-8"):
        body = json.dumps({"resourceType": "Parameters", "parameter": parameters})
        posted = client.post("/fhir/r4/CodeSystem/$lookup", content=body, headers={"Content-Type": kind})
        assert posted.json() == answer.json()
    found = client.get("/fhir/r5/ValueSet/$expand", params={"filter": "Fieber", "count": "1"}).json()
    assert [each["display"] for each in found["expansion"]["contains"]] == ["Fever"]
    matches = client.get("/fhir/r5/ConceptMap/$translate", params={"sourceCode": "Fieber"}).json()["parameter"]
    assert matches[0] == {"name": "result", "valueBoolean": True}
    for path, kind in (
        ("metadata", "CapabilityStatement"),
        ("metadata?mode=terminology", "TerminologyCapabilities"),
        ("CodeSystem", "Bundle"),
    ):
        for release in ("r4", "r5"):
            assert client.get(f"/fhir/{release}/{path}").json()["resourceType"] == kind


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("CodeSystem/$lookup", 400, "required"),
        ("CodeSystem/$lookup?system=x&code=y", 404, "not-found"),
        ("ValueSet/$expand?url=nowhere", 404, "not-found"),
        ("ValueSet/$expand?filter=a&count=x", 400, "invalid"),
        ("ConceptMap/$translate?code=x&reverse=true", 422, "not-supported"),
    ],
)
def test_fhir_errors_are_outcomes(client, path, status, kind):
    answer = client.get(f"/fhir/r4/{path}")
    assert answer.status_code == status
    assert answer.json()["resourceType"] == "OperationOutcome"
    assert answer.json()["issue"][0]["code"] == kind


@pytest.mark.parametrize("body", BODIES, ids=lambda body: f"{body[:12]!r} {len(body)}")
def test_bodies_that_are_no_parameters_are_refused(client, body):
    for kind, status in (("application/fhir+json", 400), ("text/plain", 415)):
        answer = client.post("/fhir/r4/ValueSet/$expand", content=body, headers={"Content-Type": kind})
        assert answer.status_code == status
        assert answer.json()["resourceType"] == "OperationOutcome"


# Health and metrics


def test_health_and_metrics_count_what_happened(linker):
    with TestClient(create_service(linker, linker.index), base_url=BASE) as fresh:
        health = fresh.get("/health").json()
        assert (health["status"], health["names"]) == ("ok", linker.index.names.num_rows)
        fresh.post("/link", json={"mentions": ["a", "b", "c"]})
        fresh.post("/link", json={})
        fresh.get("/reconcile/0.2/suggest/type")
        fresh.get(f"/{SCRIPT}")
        fresh.request("BREW", "/health")
        text = fresh.get("/metrics").text
    lines = text.splitlines()
    for expected in (
        'xsap_requests_total{route="/link",method="POST",status="200"} 1',
        'xsap_requests_total{route="/link",method="POST",status="400"} 1',
        'xsap_requests_total{route="/reconcile/0.2",method="GET",status="200"} 1',
        'xsap_requests_total{route="other",method="GET",status="404"} 1',
        'xsap_requests_total{route="/health",method="other",status="405"} 1',
        'xsap_request_seconds_bucket{route="/link",le="+Inf"} 2',
        'xsap_request_seconds_count{route="/link"} 2',
        "xsap_mentions_total 3",
        "xsap_batches_total 1",
        "xsap_waiting_mentions 0",
    ):
        assert expected in lines
    form = re.compile(r'# (HELP|TYPE) \w+ .+|\w+(\{(\w+="[^"\\]*",?)+\})? [-+.0-9e]+')
    assert [line for line in lines if not form.fullmatch(line)] == []
    types = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(types) == len(set(types))
    assert "script" not in text


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/link", {"json": {"mentions": ["High temperature"]}}),
        ("POST", "/reconcile/0.2", {"data": {"queries": json.dumps({"q0": {"query": "High temperature"}})}}),
        ("POST", "/reconcile/1.0/match", {"json": {"queries": [{"conditions": [{"matchType": "name", "propertyValue": "High temperature"}]}]}}),
        ("GET", "/reconcile/0.2/suggest/entity?prefix=High%20temperature", {}),
        ("GET", "/fhir/r4/ValueSet/$expand?url=http://localhost:8000/fhir/r4/ValueSet/index&filter=High%20temperature", {}),
    ],
)  # fmt: skip
def test_a_reranker_that_fails_is_a_bad_gateway_and_never_an_empty_answer(linker, method, path, body):
    broken = Linker(linker.encoder, linker.index, reranker=HttpReranker("http://127.0.0.1:9/rerank", seconds=5))
    with TestClient(create_service(broken, linker.index), base_url=BASE) as opened:
        answer = opened.request(method, path, **body)
    assert (answer.status_code, "Is the service running?" in answer.text) == (502, True), answer.text
