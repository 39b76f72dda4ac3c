"""The spaCy components, in blank pipelines of many languages, against `Linker.annotate`."""

import shutil

import pytest

from xsap.errors import ArtifactError

spacy = pytest.importorskip("spacy", reason="spaCy is not installed: pip install 'xsap[spacy]'")

# Names of the sample terminology in texts; ja, ko, th and vi need tokenizers of their own.
TEXTS = {
    "en": ("He had fever, no chest pain.", ["fever", "chest pain"]),
    "de": ("Patient hat Fieber.", ["Fieber"]),
    "es": ("El paciente tiene fiebre.", ["fiebre"]),
    "fr": ("Une fièvre s'est déclarée.", ["fièvre"]),
    "fi": ("Potilaalla on kuume.", ["kuume"]),
    "ru": ("У пациента лихорадка.", ["лихорадка"]),
    "tr": ("Hastada ateş var.", ["ateş"]),
    "zh": ("患者有发热。", ["发热"]),
    "xx": ("患者有发热, Fieber and 発熱がある", ["发热", "Fieber", "発熱"]),
    "it": ("Ha fever e basta", ["fever"]),
    "nl": ("Patiënt heeft fever", ["fever"]),
    "pt": ("O doente tem fever", ["fever"]),
}


def pipeline(language, index, **config):
    nlp = spacy.blank(language)
    nlp.add_pipe("xsap_mentions", config={"index": str(index), **config})
    nlp.add_pipe("xsap_linker", config={"index": str(index), "top_k": 2})
    return nlp


@pytest.mark.parametrize(
    "language",
    [code if code in {"en", "de", "zh", "xx"} else pytest.param(code, marks=pytest.mark.slow) for code in TEXTS],
)
def test_entities_are_found_and_linked(sample_index, language):
    text, mentions = TEXTS[language]
    doc = pipeline(language, sample_index)(text)
    assert doc.text == text
    assert [entity.text for entity in doc.ents] == mentions
    for entity in doc.ents:
        assert len(entity._.kb_ents) == 2
        concept_id, score = entity._.kb_ents[0]
        assert (entity.label_, score) == ("CONCEPT", 1.0)
        assert {token.ent_kb_id_ for token in entity} == {concept_id} == {entity.kb_id_}
    assert doc.ents[0]._.kb_ents[0][0] == "C9000001"


def test_pipe_gives_in_batches_what_single_calls_and_annotate_give(sample_index):
    from xsap import Linker

    texts = [text for text, _ in TEXTS.values()] * 2
    nlp = pipeline("xx", sample_index)
    docs = list(nlp.pipe(texts, batch_size=5))
    single = [nlp(text) for text in texts]
    expected = Linker.load(sample_index).annotate(texts, 2)
    for doc, one, annotated in zip(docs, single, expected, strict=True):
        places = [(entity.start_char, entity.end_char) for entity in doc.ents]
        assert (
            places
            == [(entity.start_char, entity.end_char) for entity in one.ents]
            == [(span.start, span.end) for span in annotated.spans]
        )
        assert [[each[0] for each in entity._.kb_ents] for entity in doc.ents] == [
            [c.concept_id for c in span.result.candidates] for span in annotated.spans
        ]


def test_a_saved_pipeline_is_loaded_and_one_with_another_index_is_refused(sample_index, tmp_path):
    nlp = pipeline("de", sample_index, fuzzy=True)
    nlp.to_disk(tmp_path / "nlp")
    text = TEXTS["de"][0]
    again = spacy.load(tmp_path / "nlp")
    assert [each.kb_id_ for each in again(text).ents] == [each.kb_id_ for each in nlp(text).ents] == ["C9000001"]
    assert spacy.blank("de").from_config(nlp.config).from_bytes(nlp.to_bytes())(text).ents[0].kb_id_ == "C9000001"
    state = tmp_path / "nlp" / "xsap_linker" / "xsap.json"
    state.write_text(
        state.read_text(encoding="utf-8").replace('"content_hash": "', '"content_hash": "0'), encoding="utf-8"
    )
    with pytest.raises(ArtifactError, match="expected the index that the pipeline was saved with"):
        spacy.load(tmp_path / "nlp")
    shutil.rmtree(state.parent)
    with pytest.raises(ArtifactError, match="found none; save the pipeline again"):
        nlp.get_pipe("xsap_linker").from_disk(state.parent)


def test_entities_of_another_component_keep_their_place_and_are_linked(sample_index):
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "SYMPTOM", "pattern": "high fever"}])
    nlp.add_pipe("xsap_mentions", config={"index": str(sample_index)})
    nlp.add_pipe("xsap_linker", config={"index": str(sample_index)})
    doc = nlp("A high fever and chest pain")
    assert [(entity.text, entity.label_) for entity in doc.ents] == [
        ("high fever", "SYMPTOM"),
        ("chest pain", "CONCEPT"),
    ]
    assert all(entity.kb_id_ for entity in doc.ents)


def test_a_group_of_spans_is_linked_instead_of_entities(sample_index):
    nlp = spacy.blank("en")
    linker = nlp.add_pipe("xsap_linker", config={"index": str(sample_index), "spans_key": "sc"})
    doc = nlp.make_doc("He had fever")
    doc.spans["sc"] = [doc[2:3], doc[1:3]]
    doc = linker(doc)
    assert [span._.kb_ents[0][0] for span in doc.spans["sc"]][0] == "C9000001"
    assert [token.ent_kb_id_ for token in doc] == ["", "", ""]
    assert linker(nlp.make_doc("no group")).ents == ()


def test_concepts_are_described_as_scispacy_does(sample_index):
    entities = spacy.blank("en").add_pipe("xsap_linker", config={"index": str(sample_index)}).kb.cui_to_entity
    fever = entities["C9000001"]
    assert (fever.concept_id, fever.canonical_name) == ("C9000001", "fever")
    assert {"pyrexia", "Fieber"} <= set(fever.aliases)
    assert len(entities) == len(list(entities))
    assert "C0" not in entities


def test_the_language_of_a_document_may_be_its_own(sample_index):
    from spacy.tokens import Doc

    nlp = pipeline("xx", sample_index)
    Doc.set_extension("language", default=None, force=True)
    try:
        doc = nlp.make_doc("no fever")
        doc._.language = "en"
        assert [entity.text for entity in nlp(doc).ents] == ["fever"]
    finally:
        Doc.remove_extension("language")


def test_tokens_are_split_only_where_a_name_ends_inside_them(sample_index):
    doc = pipeline("xx", sample_index)("abc 患者有发热了 def")
    assert [token.text for token in doc] == ["abc", "患者有", "发热", "了", "def"]


def test_parts_of_a_split_token_have_its_tag_and_groups_of_spans_keep_their_places():
    from spacy.tokens import Doc

    from xsap.text_in.spacy_components import split_tokens

    words = ["abc", "患者有发热了", "def", "ghi"]
    tags, pos = ["A", "B", "C", "D"], ["NOUN", "VERB", "ADJ", "ADV"]
    doc = Doc(spacy.blank("xx").vocab, words=words, tags=tags, pos=pos, sent_starts=[True, False, True, False])
    doc.spans["sc"] = [doc[0:2], doc[2:3], doc[3:4]]
    places = [(span.start_char, span.end_char, span.text) for span in doc.spans["sc"]]
    split_tokens(doc, {0, 7, 9, 99})
    assert [token.text for token in doc] == ["abc", "患者有", "发热", "了", "def", "ghi"]
    assert [token.tag_ for token in doc] == ["A", "B", "B", "B", "C", "D"]
    assert [token.pos_ for token in doc] == ["NOUN", "VERB", "VERB", "VERB", "ADJ", "ADV"]
    assert [sentence.text for sentence in doc.sents] == ["abc 患者有发热了", "def ghi"]
    assert [(span.start_char, span.end_char, span.text) for span in doc.spans["sc"]] == places
    assert [(span.start, span.end) for span in doc.spans["sc"]] == [(0, 4), (4, 5), (5, 6)]


def test_a_split_token_keeps_its_head_and_its_parts_depend_on_the_first():
    from spacy.tokens import Doc

    from xsap.text_in.spacy_components import split_tokens

    words, heads, relations = ["abc", "患者发热", "def"], [2, 0, 2], ["nsubj", "obj", "ROOT"]
    doc = Doc(spacy.blank("xx").vocab, words=words, heads=heads, deps=relations)
    split_tokens(doc, {6})
    assert [(token.text, token.head.text, token.dep_) for token in doc] == [
        ("abc", "def", "nsubj"),
        ("患者", "abc", "obj"),
        ("发热", "患者", "dep"),
        ("def", "def", "ROOT"),
    ]
    assert len(list(doc.sents)) == 1


def test_a_token_of_an_entity_is_not_split_for_a_name_inside_it(sample_index):
    nlp = spacy.blank("xx")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "NOTE", "pattern": "患者有发热了"}])
    nlp.add_pipe("xsap_mentions", config={"index": str(sample_index)})
    doc = nlp("患者有发热了 发热")
    assert [(entity.text, entity.label_) for entity in doc.ents] == [("患者有发热了", "NOTE"), ("发热", "CONCEPT")]
    assert [token.text for token in doc] == ["患者有发热了", "发热"]


def test_processes_annotate_as_one_does(sample_index):
    texts = [text for text, _ in TEXTS.values()]
    nlp = pipeline("xx", sample_index)
    of_one = [[(entity.text, entity.kb_id_) for entity in doc.ents] for doc in nlp.pipe(texts)]
    of_two = [[(entity.text, entity.kb_id_) for entity in doc.ents] for doc in nlp.pipe(texts, n_process=2)]
    assert of_two == of_one
