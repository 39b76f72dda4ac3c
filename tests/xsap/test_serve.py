"""The service on a real port: many clients at once, overload, SIGTERM under load, and the command that starts it."""

import http.client
import json
import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fixtures.commands import ROOT
from tests.fixtures.service import LANGUAGES, ODD_ID, mentions_of, post, running_service, small_linker
from xsap.errors import ConfigError
from xsap.server.app import ServiceLimits
from xsap.server.listen import address_of, reserved_port

THREADS = 16


def linked_alone(linker, mention, language, top_k):
    [result] = linker.link([mention], top_k, languages=[language])
    return json.loads(json.dumps(result.to_dict()))


def assert_equal_answers(found, expected):
    """Equal but for rounding, which depends on what is encoded and searched together."""
    for one, other in zip(found, expected, strict=True):
        scores = [each.pop("score") for each in one["candidates"]]
        assert scores == pytest.approx([each.pop("score") for each in other["candidates"]], abs=1e-5)
        assert one == other


@pytest.mark.slow
def test_sixteen_clients_get_the_answers_of_the_linker():
    linker = small_linker()
    mentions = mentions_of(600)
    queries = [(mention, LANGUAGES[i % 4], 1 + i % 3) for i, mention in enumerate(mentions)]
    expected = [linked_alone(linker, *query) for query in queries]
    with running_service(linker) as port:

        def ask(start):
            batch = queries[start : start + 5]
            found = []
            for mention, language, top_k in batch:
                body = {"mentions": [mention], "languages": [language], "top_k": top_k}
                status, _, answer = post(port, "/link", body)
                assert status == 200
                found += answer["results"]
            return found

        with ThreadPoolExecutor(THREADS) as pool:
            found = [result for part in pool.map(ask, range(0, len(queries), 5)) for result in part]
    assert_equal_answers(found, expected)


def test_batches_of_openrefine_by_sixteen_clients_are_answered_as_one_by_one():
    linker = small_linker(0.002)
    texts = mentions_of(800)
    with running_service(linker) as port:

        def ask(start):
            batch = {f"q{i}": {"query": texts[i], "limit": 3} for i in range(start, start + 10)}
            status, _, answer = post(port, "/reconcile/0.2", {"queries": batch}, form=True)
            assert status == 200
            return [[each["id"] for each in answer[key]["result"]] for key in batch]

        with ThreadPoolExecutor(THREADS) as pool:
            found = [ids for part in pool.map(ask, range(0, len(texts), 10)) for ids in part]
    expected = [[each.concept_id for each in result.candidates] for result in linker.link(texts, 3)]
    assert found == expected
    assert linker.encoder.calls < 80 + 2  # fewer calls than requests: some were linked together


def test_past_its_bound_requests_are_refused_and_no_accepted_one_is_lost():
    linker = small_linker(0.1)
    outcomes = []
    with running_service(linker, ServiceLimits(4, 8)) as port:

        def ask(number):
            return post(port, "/link", {"mentions": [f"{number} {each}" for each in range(4)]})

        with ThreadPoolExecutor(THREADS) as pool:
            outcomes = list(pool.map(ask, range(64)))
        _, _, after = post(port, "/link", {"mentions": ["Fieber"]})
    accepted = [(number, answer) for number, (status, _, answer) in enumerate(outcomes) if status == 200]
    refused = [(headers, answer) for status, headers, answer in outcomes if status == 503]
    assert len(accepted) + len(refused) == 64
    assert accepted
    assert refused
    for number, answer in accepted:
        assert [each["mention"] for each in answer["results"]] == [f"{number} {each}" for each in range(4)]
    for headers, answer in refused:
        assert int({key.casefold(): value for key, value in headers.items()}["retry-after"]) >= 1
        assert "try again later" in answer["error"]
    assert after["results"][0]["candidates"][0]["concept_id"] == "HP:1"


def test_a_client_that_goes_away_does_not_stop_the_others():
    linker = small_linker(0.2)
    with running_service(linker) as port:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port)) as gone:
                body = b'{"mentions": ["gone"]}'
                head = f"POST /link HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                gone.sendall(head.encode() + body)
        with socket.create_connection(("127.0.0.1", port)) as half:
            half.sendall(
                b"POST /link HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"
            )
        assert post(port, "/link", {"mentions": ["Fieber"]})[0] == 200


@pytest.mark.parametrize(
    "path",
    ["preview/" + ODD_ID.replace("%", "%25").replace(" ", "%20"), "preview/http%3A%2F%2Fx.org%2Fa%3Ab%2Fc%20d%252F"],
)
def test_ids_with_slashes_and_colons_are_found_raw_and_encoded(path):
    linker = small_linker()
    with running_service(linker) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", f"/reconcile/0.2/{path}")
        answer = connection.getresponse()
        assert (answer.status, b"Odd" in answer.read()) == (200, True)
        connection.close()


def test_sigterm_under_load_answers_what_was_accepted_and_exits_with_0(template):
    """The encoder takes 50 ms a call, so that 12 clients always have requests that wait."""
    with template.reading("stdout", ["-m", "tests.fixtures.service", 0.05], ROOT) as started:
        port = int(started.output.readline().rpartition(":")[2])
        outcomes, stopping = [], threading.Event()

        def ask(client):
            for number in range(1000):
                sent = False
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                try:
                    connection.connect()
                    body = json.dumps({"mentions": [f"{client} {number}"], "top_k": 1})
                    connection.request("POST", "/link", body, {"Content-Type": "application/json"})
                    sent = True
                    answer = connection.getresponse()
                    outcomes.append((answer.status, json.loads(answer.read())))
                except OSError as error:
                    outcomes.append((error, sent and not stopping.is_set()))
                    return
                finally:
                    connection.close()

        threads = [threading.Thread(target=ask, args=(client,)) for client in range(12)]
        for thread in threads:
            thread.start()
        while len(outcomes) < 30:
            time.sleep(0.01)
        stopping.set()
        started.kill(signal.SIGTERM)
        assert started.wait() == 0
        for thread in threads:
            thread.join(30)
    answered = [answer for status, answer in outcomes if status == 200]
    assert len(answered) > 30  # those that were in flight, too; on a busy machine, clients may be between two requests
    assert all(answer["results"][0]["mention"] for answer in answered)
    errors = [(error, lost) for error, lost in outcomes if not isinstance(error, int)]
    assert {status for status, _ in outcomes if isinstance(status, int)} <= {200, 503}
    assert all(isinstance(error, ConnectionError) for error, _ in errors), errors  # never a timeout
    assert not any(lost for _, lost in errors)


def test_a_reserved_port_is_not_open_yet_and_one_in_use_is_refused():
    with reserved_port("127.0.0.1", 0) as reserved:
        port = reserved.getsockname()[1]
        assert address_of(reserved, "127.0.0.1") == f"http://127.0.0.1:{port}"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        reserved.listen()
        with pytest.raises(ConfigError, match=f"port {port}: Address already in use; choose another --port"):
            reserved_port("127.0.0.1", port).__enter__()
    with pytest.raises(ConfigError, match="name or address of this computer"):
        reserved_port("no such host", 0).__enter__()


# The command


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-batch", "10", "--max-queue", "5"], "--max-queue must be at least --max-batch, found 5 and 10"),
        (["--index", "none"], "none: expected an index folder, found nothing there"),
        (["--host", "no such host"], "expected --host to be a name or address of this computer"),
    ],
)
def test_wrong_use_is_one_line(run, words, message):
    done = run("-m", "xsap", "serve", "--index", "none", "--port", "0", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_command_serves_an_index_until_it_is_stopped(tiny_folder, sample_folder, tmp_path, template):
    from xsap import Encoder
    from xsap.linking.index import Index
    from xsap.terms.terminology import Terminology

    encoder = Encoder.from_pretrained(tiny_folder)
    Index.build(Terminology.load(sample_folder), encoder, languages={"en", "de"}, model_path=tiny_folder).save(
        tmp_path / "index"
    )
    words = ["-m", "xsap", "serve", "--index", tmp_path / "index", "--port", "0", "--host", "0.0.0.0"]
    with template.reading("stderr", words) as started:
        warning, ready = started.output.readline(), started.output.readline()
        assert warning.startswith("warning: 0.0.0.0 is not this computer alone")
        assert ready.startswith("http://0.0.0.0:")
        port = int(ready.partition("/reconcile")[0].rpartition(":")[2])
        status, _, answer = post(port, "/link", {"mentions": ["fever"], "top_k": 1})
        assert (status, answer["results"][0]["candidates"][0]["concept_id"]) == (200, "C9000001")
        assert answer["index"] == Index.load(tmp_path / "index").content_hash
        page = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
        body = json.loads(re.search(r"--data '(.*)'", page)[1])
        shown = json.loads(re.search(r"```json\n(.*?)```", page, re.DOTALL)[1])
        assert post(port, "/link", body)[2] == shown | {"index": answer["index"]}
        started.kill(signal.SIGTERM)
        assert started.wait() == 0
        assert started.output.read() == ""


def test_the_image_runs_without_rights_offline_and_is_watched():
    """The image is not built here; what it must have is read from its recipe."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    last = lines[max(number for number, line in enumerate(lines) if line.startswith("FROM")) :]
    users = [line.split()[1] for line in last if line.startswith("USER")]
    assert users
    assert "root" not in users
    assert any("HF_HUB_OFFLINE=1" in line for line in last if line.startswith("ENV"))
    assert any("/health" in line for line in last if line.startswith("HEALTHCHECK"))
    assert any(line.startswith("ENTRYPOINT") and '"serve"' in line for line in last)
    assert any("whl/cpu" in line for line in lines)
    copied = [word for line in lines if line.startswith("COPY") and "--from" not in line for word in line.split()[1:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    kept = {
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")
    }
    assert kept == set(copied)
