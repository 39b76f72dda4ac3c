"""Model cards, and what a saved model says of where it comes from; no path of this machine, and no user, is named in anything that may be shared."""

import base64
import getpass
import json
import shutil
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from huggingface_hub import ModelCard

from tests.fixtures.commands import assert_refused
from tests.fixtures.training import SMALL
from xsap import Encoder, Linker
from xsap.artifacts import manifest_hash, open_artifact
from xsap.config import load_settings
from xsap.encoding.model_card import CardEvaluation, CardScore, model_card, read_provenance
from xsap.hub_upload import plan_upload, upload_folder
from xsap.terms.source_licenses import license_of, restricted
from xsap.training import run as training_run

NAMES = ["Fieber", "fever", "発熱", "chest pain"]


@pytest.fixture(scope="module")
def trained(sample_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two steps and an evaluation on four mentions."""
    folder = tmp_path_factory.mktemp("trained-by-somebody")
    mentions = folder / "secret mentions.tsv"
    rows = ["Fieber\tde\tC9000001", "pyrexia\ten\tC9000001", "Brustschmerz\tde\tC9000004", "chest pain\ten\tC9000004"]
    mentions.write_text("\n".join(["mention\tlanguage\tconcept_ids", *rows]) + "\n", encoding="utf-8")
    words = [
        f"terminology={sample_folder}",
        f"output={folder / 'run'}",
        *SMALL,
        "max_steps=2",
        f"evaluation.mentions={mentions}",
    ]
    training_run.train(load_settings(None, words))
    return folder / "run"


def stated(folder: Path) -> dict:
    return json.loads((folder / "xsap.json").read_text(encoding="utf-8"))


def card_of(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def same_vectors_in_sentence_transformer(folder: Path) -> bool:
    import numpy as np
    from sentence_transformers import SentenceTransformer

    model, encoder = SentenceTransformer(str(folder), device="cpu"), Encoder.from_pretrained(folder, device="cpu")
    assert model.similarity_fn_name == "cosine"
    return bool(np.allclose(model.encode(NAMES), encoder.encode(NAMES), atol=1e-5))


def test_card_of_a_trained_model_says_what_it_was_made_of(trained):
    card, facts = card_of(trained / "model"), stated(trained / "model")
    front = card.data.to_dict()
    assert front["language"] == facts["languages"]
    assert "de" in front["language"]
    assert (front["license"], front["library_name"], front["pipeline_tag"]) == ("unknown", "sentence-transformers", "sentence-similarity")  # fmt: skip
    assert {"xsap", "biomedical", "entity-linking"} <= set(front["tags"])
    assert "base_model" not in front
    names = sum(facts["trained_on"].values())
    assert facts["trained_on"] == facts["vocabulary_from"] == {"XSAP": names}
    assert f"| XSAP | {names:,} | MIT, the sample terminology of xsap |" in card.text
    assert "- loss: multi_similarity" in card.text
    assert "- steps: 2" in card.text


def test_card_has_the_last_evaluation_with_n_and_intervals(trained):
    lines = (trained / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    last = [line["evaluation"] for line in map(json.loads, lines) if "evaluation" in line][-1]
    card = card_of(trained / "model")
    german, mean = last["languages"]["de"], last["mean"]
    assert f"| German | 2 | {100 * german['acc@1']:.1f} |" in card.text
    low, high = mean["acc@1_interval"]
    assert (
        f"| mean of the languages | 4 | {100 * mean['acc@1']:.1f} | {100 * low:.1f} – {100 * high:.1f} |" in card.text
    )
    results = {result.dataset_config: result.metric_value for result in card.data.eval_results}
    assert results["German"] == round(german["acc@1"], 4)


def test_trained_and_converted_models_open_in_sentence_transformer_with_the_same_vectors(trained, tmp_path):
    assert same_vectors_in_sentence_transformer(trained / "model")
    encoder = Encoder.from_pretrained(trained / "model", prompt="query: ", override=True)
    encoder.save_pretrained(tmp_path / "prompted")
    assert same_vectors_in_sentence_transformer(tmp_path / "prompted")
    config = json.loads((tmp_path / "prompted" / "config_sentence_transformers.json").read_text(encoding="utf-8"))
    assert config == {
        "model_type": "SentenceTransformer",
        "prompts": {"query": "query: ", "document": "query: "},
        "default_prompt_name": "document",
        "similarity_fn_name": "cosine",
    }


def shared_text(run: Path) -> dict[str, str]:
    """Everything of a run but config.json, which says where its inputs are so that it can be resumed."""
    files = [file for file in run.rglob("*") if file.is_file() and file != run / "config.json"]
    return {str(file.relative_to(run)): file.read_bytes().decode("utf-8", "replace") for file in files}


def test_output_of_training_names_no_path_and_no_user(trained, sample_folder):
    private = [str(trained.parent), trained.parent.name, str(sample_folder.parent), f"{Path.home()}/", str(Path.cwd())]
    private += ["/tmp/", *(word for word in (socket.gethostname(), getpass.getuser()) if len(word) > 5)]
    texts = shared_text(trained)
    assert {"report.html", "metrics.jsonl", "model/README.md", "model/xsap.json", "model/tokenizer_config.json"} <= set(
        texts
    )
    found = {(file, word) for file, text in texts.items() for word in private if word in text}
    assert found == set()
    assert str(sample_folder) in (trained / "config.json").read_text(encoding="utf-8")


def test_converted_and_shrunk_models_name_no_path(trained, sample_folder, tmp_path, cli):
    assert cli("convert", trained / "model", "--out", tmp_path / "converted")[0] == 0
    assert cli("shrink", trained / "model", sample_folder, "--out", tmp_path / "shrunk")[0] == 0
    for folder in ("converted", "shrunk"):
        assert [file for file, text in shared_text(tmp_path / folder).items() if "/tmp/" in text] == []
        assert stated(tmp_path / folder)["vocabulary_from"] == stated(trained / "model")["vocabulary_from"]
    assert "Its vocabulary was cut down" in card_of(tmp_path / "shrunk").text
    assert same_vectors_in_sentence_transformer(tmp_path / "converted")


@pytest.fixture
def cli(capsys):
    from xsap.cli import main

    def call(*words):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return call


def test_card_may_be_edited_and_its_license_is_kept(trained, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(trained / "model", folder)
    before = manifest_hash(open_artifact(folder, "model"))
    text = (folder / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(
        text.replace("license: unknown", "license: cc-by-4.0\nbase_model: someone/base"), encoding="utf-8"
    )
    assert manifest_hash(open_artifact(folder, "model")) == before
    encoder = Encoder.from_pretrained(folder)
    assert encoder.content_hash == before
    encoder.save_pretrained(tmp_path / "again")
    front = card_of(tmp_path / "again").data
    assert (front.license, front.base_model) == ("cc-by-4.0", "someone/base")


@pytest.mark.parametrize(
    "card",
    ["", "---\n", "---\nlicense: [\n---\n", "---\n- a\n---\n", "---\nlicense: {a: b}\nbase_model: /home/ann/x\n---\n", "\x00\xff", "---\nlicense: 'a b\n<script>'\nlanguage: 7\n---\n"],
)  # fmt: skip
def test_card_of_a_base_model_of_any_content_does_no_harm(tmp_path, card):
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert read_provenance(tmp_path, tmp_path, {"steps": 2}) == {"steps": 2}


def test_base_model_is_named_by_its_id_alone(tmp_path):
    def base(path, folder):
        folder.mkdir(parents=True, exist_ok=True)
        return read_provenance(path, folder, {}).get("base_model")

    cached = tmp_path / "models--owner--name.v1" / "snapshots" / "abc"
    assert base("owner/name", tmp_path / "a") == "owner/name"
    assert base(cached, cached) == "owner/name.v1"
    known = tmp_path / "intfloat" / "multilingual-e5-small"
    assert base(known, known) == "intfloat/multilingual-e5-small"
    assert base(tmp_path / "mine", tmp_path / "mine") is None
    assert read_provenance(tmp_path / "mine", tmp_path / "mine", {"base_model": "a/b"}) == {"base_model": "a/b"}


def test_card_text_is_markdown_that_the_hub_reads():
    facts = {"pooling": "mean_all", "max_length": 25, "text": {"case": "cased", "unicode": "NFC"}, "base_model": "a/b", "license": "mit",
             "trained_on": {"A|B": 1200}, "languages": ["de", "und"]}  # fmt: skip
    scores = [CardScore("German", 1200, 0.5), CardScore("none", 0, float("nan"))]
    text = model_card(facts, dimension=32, parameters=1000, evaluation=CardEvaluation(scores, "d" * 64, "m" * 64))
    card = ModelCard(text)
    assert (card.data.library_name, card.data.language, card.data.base_model) == ("transformers", ["de"], "a/b")
    assert [result.metric_value for result in card.data.eval_results] == [0.5]
    assert "| A/B | 1,200 | not known to be open |" in text
    assert "| German | 1,200 | 50.0 | – |" in text
    assert "does not open this model" in text


def test_sources_are_open_only_if_they_are_listed():
    assert restricted(["HPO", "SNOMEDCT_US", "hpo", "my list", "SNOMEDCT_US", "MDRGER"]) == [
        "SNOMEDCT_US",
        "my list",
        "MDRGER",
    ]
    assert license_of("Wikidata").startswith("CC0")
    assert all(
        license_of(source) is None for source in ("SNOMED", "SNOMEDCT", "MDR", "CPT", "LNC", "ICD10", "MSHGER", "")
    )


# Pushing


class FakeHub:
    """Keeps what it is given."""

    def __init__(self, error: Exception | None = None):
        self.repositories, self.files, self.error = {}, {}, error

    def create_repo(self, repo_id, **options):
        if self.error:
            raise self.error
        self.repositories[repo_id] = options
        return f"https://hub/{repo_id}"

    def create_commit(self, repo_id, operations, **options):
        for operation in operations:
            with operation.as_file() as stream:
                self.files[operation.path_in_repo] = stream.read()


@pytest.fixture
def hub(monkeypatch):
    import huggingface_hub

    fake = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    return fake


def test_push_uploads_the_files_of_the_manifest_and_the_card_alone(trained, tmp_path, cli, hub):
    folder = tmp_path / "model"
    shutil.copytree(trained / "model", folder)
    (folder / "notes of patients.txt").write_text("secret")
    code, out, err = cli("push", folder, "me/model")
    assert (code, out) == (0, "https://hub/me/model\n")
    assert "MB" in err
    assert hub.repositories == {"me/model": {"private": True, "repo_type": "model", "exist_ok": True}}
    listed = open_artifact(folder, "model")["files"]
    assert set(hub.files) == {*listed, "manifest.json", "README.md"}
    for name, content in hub.files.items():
        (tmp_path / "got" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "got" / name).write_bytes(content)
    assert Encoder.from_pretrained(tmp_path / "got").content_hash == Encoder.from_pretrained(folder).content_hash


def with_vocabulary_from(folder: Path, to: Path, sources) -> Path:
    """A model whose vocabulary was trained on names of these sources; None: nothing is recorded."""
    encoder = Encoder.from_pretrained(folder)
    encoder.provenance = {
        key: value for key, value in encoder.provenance.items() if key not in ("vocabulary_from", "trained_on")
    }
    encoder.save_pretrained(to, metadata={} if sources is None else {"vocabulary_from": sources})
    return to


def test_push_of_a_vocabulary_of_restricted_names_needs_the_flag_and_names_them(trained, tmp_path, cli, hub):
    folder = with_vocabulary_from(trained / "model", tmp_path / "m", {"HPO": 5, "SNOMEDCT_US": 1234, "MDR": 7})
    done = cli("push", folder, "me/model")
    assert_refused(done, "a vocabulary that was trained on names of sources that are not known to be open: SNOMEDCT_US (1,234 names), MDR (7 names); add --include-restricted")  # fmt: skip
    assert hub.files == hub.repositories == {}
    code, _, err = cli("push", folder, "me/model", "--include-restricted", "--public")
    assert code == 0
    assert "SNOMEDCT_US (1,234 names), MDR (7 names)" in err
    assert hub.repositories["me/model"]["private"] is False


def test_push_of_a_model_without_a_record_of_its_vocabulary_needs_the_flag(trained, tmp_path, cli, hub):
    folder = with_vocabulary_from(trained / "model", tmp_path / "m", None)
    assert_refused(cli("push", folder, "me/model"), "names that xsap has no record of")


def test_push_of_an_index_needs_the_flag_for_restricted_sources_and_hides_where_its_model_is(
    trained, sample_folder, tmp_path, cli, hub
):
    from xsap import Index, Terminology

    terminology = Terminology.load(sample_folder)
    encoder = Encoder.from_pretrained(trained / "model", device="cpu")
    Index.build(terminology, encoder, model_path=trained / "model").save(tmp_path / "open")
    assert cli("push", tmp_path / "open", "me/index")[0] == 0
    assert hub.repositories["me/index"]["repo_type"] == "dataset"
    manifest = json.loads(hub.files["manifest.json"])
    assert (manifest["model"]["path"], manifest["model"]["relative_path"]) == (None, None)
    for name, content in hub.files.items():
        (tmp_path / "got").mkdir(exist_ok=True)
        (tmp_path / "got" / name).write_bytes(content)
    assert Index.load(tmp_path / "got").content_hash == Index.load(tmp_path / "open").content_hash
    names = terminology.names.set_column(4, "source", [["SNOMEDCT"] * terminology.names.num_rows])
    Index.build(Terminology(names, terminology.concepts), encoder, model_path=trained / "model").save(
        tmp_path / "closed"
    )
    assert_refused(
        cli("push", tmp_path / "closed", "me/other"),
        "names and vectors of sources that are not known to be open: SNOMEDCT (",
    )


def test_push_says_what_the_hub_says(trained, cli, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: FakeHub(OSError("401 Client Error.\nmore")))
    done = cli("push", trained / "model", "me/model")
    assert_refused(
        done,
        "me/model: the hub rejected the upload: 401 Client Error. Log in with a token that may write there: hf auth login",
    )


def test_push_of_another_folder_is_refused(sample_folder, tmp_path, cli, hub):
    assert_refused(
        cli("push", sample_folder, "me/x"),
        "expected a model or an index that xsap saved, found a folder of kind 'terminology'",
    )
    assert_refused(cli("push", tmp_path, "me/x"), "found another folder. Save the model first: xsap convert")


class StandIn(BaseHTTPRequestHandler):
    """What the hub's client needs of the hub to make a repository and commit files to it."""

    def log_message(self, *arguments):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.path, self.headers.get("Authorization"), body))
        if self.path == "/api/repos/create":
            answer = {"url": f"http://{self.headers['Host']}/me/model", "name": "me/model"}
        elif "/preupload/" in self.path:
            wanted = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in wanted]}
        else:
            answer = {
                "commitUrl": f"http://{self.headers['Host']}/me/model/commit/1",
                "commitOid": "1",
                "hookOutput": "",
            }
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self.do_POST()


@pytest.fixture
def stand_in():
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.requests = []
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_client_of_the_hub_sends_the_files_to_a_server(trained, stand_in, monkeypatch):
    from huggingface_hub import HfApi

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    api = HfApi(endpoint=f"http://127.0.0.1:{stand_in.server_port}", token="hf_stand-in")
    plan = plan_upload(trained / "model")
    upload_folder(plan, "me/model", api)
    made = next(json.loads(body) for path, _, body in stand_in.requests if path == "/api/repos/create")
    assert (made["organization"], made["name"], made["visibility"]) == ("me", "model", "private")
    [commit] = [body for path, _, body in stand_in.requests if "/commit/" in path]
    lines = [json.loads(line)["value"] for line in commit.splitlines() if json.loads(line)["key"] == "file"]
    sent = {line["path"]: base64.b64decode(line["content"]) for line in lines}
    assert set(sent) == set(plan.files)
    assert sent["README.md"] == (trained / "model" / "README.md").read_bytes()
    assert {authorization for _, authorization, _ in stand_in.requests} == {"Bearer hf_stand-in"}


def test_index_remembers_the_revision_of_a_model_of_the_hub(trained, sample_folder, tmp_path, cli, monkeypatch):
    """The stand-in for the hub has another model at each revision."""
    other = Encoder.from_pretrained(trained / "model", device="cpu")
    with torch.no_grad():
        next(other.transformer.parameters()).add_(1)
    other.save_pretrained(tmp_path / "other")
    asked = []

    def snapshot_download(repo_id, *, revision=None, **_):
        asked.append((repo_id, revision))
        return str(tmp_path / "other" if revision == "v2" else trained / "model")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    code, _, err = cli(
        "index", "me/model", sample_folder, "--revision", "v2", "--dtype", "float32", "--out", tmp_path / "index"
    )
    assert code == 0, err
    asked.clear()
    linker = Linker.load(tmp_path / "index", device="cpu")
    assert set(asked) == {("me/model", "v2")}
    assert linker.link("fever").candidates[0].name == "fever"
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["model"]["path"], manifest["model"]["revision"]) == ("me/model", "v2")
