"""Model cards: README.md of a saved model, and what a model folder states of where its model comes from.

A card is a view of the folder's `xsap.json`, with the scores of the run that trained the model. People may edit it: it is no part of the folder's
manifest, so the model's hash stays the same. A license that they state in its front matter counts when the model is opened again. No path of the
machine is ever in it: a base model is named only by its id on the Hugging Face hub.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xsap.encoding.known_models import find_known_model
from xsap.encoding.model_json import read_model_object, typed
from xsap.languages import UNKNOWN, to_name
from xsap.terms.source_licenses import license_of

README, STATED = "README.md", "xsap.json"
BASE_MODEL, LICENSE = "base_model", "license"
TRAINED_ON, VOCABULARY_FROM = "trained_on", "vocabulary_from"  # source → number of names
MENTIONS_SOURCE = "mentions with known concepts"  # a source of names in TRAINED_ON
TUNED = "tuned"  # scores before and after tuning on mentions
FUSION_WEIGHT = (
    "fusion_weight"  # of string similarity in scores, which a model was tuned with and an index of it begins with
)
UNKNOWN_LICENSE = "unknown"  # of the hub's identifiers
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_LICENSE_ID = re.compile(r"[\w.+-]{1,40}")
_LANGUAGE = re.compile("[a-z]{2,3}")
_CACHE = re.compile(r"models--([\w.-]+?)--([\w.-]+)")  # a folder of the hub's cache


class CardScore(NamedTuple):
    """A row of a card's evaluation. name: a language, or the mean of several. accuracy: Acc@1 in [0, 1]. low, high: nan if not known."""

    name: str
    n: int
    accuracy: float
    low: float = math.nan
    high: float = math.nan


class CardEvaluation(NamedTuple):
    """An evaluation for a card. dictionary: hash of the terminology whose English names were searched. mentions: sha256 of their file."""

    scores: Sequence[CardScore]
    dictionary: str
    mentions: str


def read_stated(folder: Path) -> dict[str, Any]:
    """The keys of a folder's `xsap.json` besides those of `EncoderConfig`; none without that file.

    Raises:
        ArtifactError: The file can't be read, or has a value of another type than is used here or elsewhere.
    """
    file = folder / STATED
    stated = _without_null(read_model_object(file)) if file.is_file() else {}
    typed(file, stated, FUSION_WEIGHT, float)
    for key in ("training", TUNED):
        typed(file, stated, key, dict)
    for key in (TRAINED_ON, VOCABULARY_FROM):
        if counts := typed(file, stated, key, dict):
            stated[key] = _without_null({source: typed(file, counts, source, int) for source in counts})
    if languages := typed(file, stated, "languages", list):
        codes = {f"languages[{i}]": code for i, code in enumerate(languages)}
        stated["languages"] = list(_without_null({key: typed(file, codes, key, str) for key in codes}).values())
    return {key: value for key, value in stated.items() if key not in ("pooling", "max_length", "text", "prompts")}


def _without_null(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def read_provenance(path: Path | str, folder: Path, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Where a model comes from: keys of `xsap.json` that a model made from it keeps, among them `base_model` and `license` if they are known.

    Args:
        path: What the model was opened by: its id on the hub, or its folder.
        folder: Where its files are.
        stated: Its `xsap.json`, without the keys of `EncoderConfig`.
    """
    front = _front_matter(folder / README)
    known = find_known_model(path, folder)
    cached = next((found for part in folder.absolute().parts if (found := _CACHE.fullmatch(part))), None)
    bases = [
        None if Path(path).is_dir() else str(path),
        stated.get(BASE_MODEL),
        known and known.model_id,
        cached and f"{cached[1]}/{cached[2]}",
        *_texts(front.get(BASE_MODEL)),
    ]
    base = next((each for each in bases if isinstance(each, str) and _HUB_ID.fullmatch(each)), None)
    licenses = [*_texts(front.get(LICENSE)), *_texts(stated.get(LICENSE))]
    license_id = next((each for each in licenses if _LICENSE_ID.fullmatch(each) and each != UNKNOWN_LICENSE), None)
    known_values: dict[str, Any] = {BASE_MODEL: base, LICENSE: license_id}
    languages = [code for code in _texts(front.get("language")) if _LANGUAGE.fullmatch(code)]
    known_values["languages"] = stated.get("languages") or languages or None
    return dict(stated) | {key: value for key, value in known_values.items() if value is not None}


def _front_matter(file: Path) -> Mapping[str, Any]:
    """The metadata at the top of a card; empty if there is none that can be read."""
    from huggingface_hub import metadata_load

    try:
        return metadata_load(file) or {} if file.is_file() else {}
    except Exception:  # a card of any content makes the parsers raise errors of any kind, and none of them matters here
        return {}


def _texts(value: object) -> list[str]:
    """A value of front matter, which may be a list, as texts."""
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]


def model_card(
    stated: Mapping[str, Any], *, dimension: int, parameters: int, evaluation: CardEvaluation | None = None
) -> str:
    """The text of README.md.

    Args:
        stated: The folder's `xsap.json`.
        dimension: Components of a vector.
        parameters: Weights of the transformer.
        evaluation: After training, if there was one.
    """
    from huggingface_hub import EvalResult, ModelCardData

    has_modules = stated["pooling"] != "mean_all"
    title = _title(stated)
    results = [
        EvalResult(
            task_type="sentence-similarity",
            task_name="Entity linking",
            dataset_type="mentions",
            dataset_name="mentions",
            dataset_config=score.name,  # what the hub tells results by
            metric_type="accuracy",
            metric_name="Acc@1",
            metric_value=round(score.accuracy, 4),
        )
        for score in (evaluation.scores if evaluation else ())
        if math.isfinite(score.accuracy)
    ]
    front = ModelCardData(
        language=[code for code in stated.get("languages", ()) if code != UNKNOWN] or None,
        license=stated.get(LICENSE, UNKNOWN_LICENSE),
        library_name="sentence-transformers" if has_modules else "transformers",
        pipeline_tag="sentence-similarity" if has_modules else "feature-extraction",
        base_model=stated.get(BASE_MODEL),
        tags=["xsap", "biomedical", "clinical", "entity-linking"],
        model_name=title if results else None,
        eval_results=results or None,
    )
    parts = [
        f"---\n{front.to_yaml().rstrip()}\n---\n",
        f"# {title}\n",
        *_introduction(stated, dimension, parameters),
        *_use(stated, has_modules=has_modules),
        *_data(stated),
        *_training(stated),
        *_tuning(stated),
        *_evaluation(evaluation),
        *_license(stated),
    ]
    return "\n".join(parts)


def _title(stated: Mapping[str, Any]) -> str:
    base = str(stated.get(BASE_MODEL, "")).rpartition("/")[2]
    if TRAINED_ON in stated:
        return f"{base}, trained for entity linking" if base else "An encoder of biomedical terms"
    return (
        f"{base}, {'with a smaller vocabulary' if 'shrunk' in stated else 'as xsap opens it'}"
        if base
        else "A model for xsap"
    )


def _introduction(stated: Mapping[str, Any], dimension: int, parameters: int) -> list[str]:
    base = stated.get(BASE_MODEL)
    if TRAINED_ON in stated:
        made = f"It was trained from [{base}](https://huggingface.co/{base})." if base else "It was trained by xsap."
    elif base:
        made = f"Its weights are those of [{base}](https://huggingface.co/{base})."
    else:
        made = ""
    if "shrunk" in stated:
        made += " Its vocabulary was cut down to the pieces that the names of a terminology use; text of these pieces keeps its vectors."
    text = (
        "An encoder for xsap, which links clinical and biomedical terms in any language to the concepts of a terminology: names of one concept "
        f"get similar vectors. {made}"
    )
    policy = stated["text"]
    lines = [
        f"- {parameters:,} weights, vectors of {dimension:,} components",
        f"- pooling: {stated['pooling']}; at most {stated['max_length']} tokens of a name",
        f"- text: {policy['case']}, Unicode {policy['unicode']}",
    ]
    if prompts := stated.get("prompts"):
        lines.append(f"- text before each name: `{prompts['name']}`; before each mention: `{prompts['mention']}`")
    return [f"{text.rstrip()}\n", *lines, ""]


def _use(stated: Mapping[str, Any], *, has_modules: bool) -> list[str]:
    lines = [
        "## Use\n",
        "`MODEL` is this folder, or its id on the Hugging Face hub.\n",
        "```sh\nxsap index MODEL TERMINOLOGY --out index/\nxsap link --index index/ Fieber 発熱\n```\n",
        '```python\nfrom xsap import Encoder\n\nvectors = Encoder.from_pretrained("MODEL").encode(["Fieber", "fever"])\n```\n',
    ]
    if not has_modules:
        return [*lines, "SentenceTransformer has no pooling over padding, so it does not open this model.\n"]
    policy = stated["text"]
    same = f"The vectors are the same for text that is in Unicode {policy['unicode']} already; xsap normalizes it.\n"
    return [
        *lines,
        "```python\nfrom sentence_transformers import SentenceTransformer\n\n"
        'vectors = SentenceTransformer("MODEL").encode(["Fieber", "fever"])\n```\n',
        same,
    ]


def _data(stated: Mapping[str, Any]) -> list[str]:
    lines = []
    if trained_on := stated.get(TRAINED_ON):
        lines += ["## Data\n", "Names that it was trained on, by source:\n", *_source_table(trained_on)]
        languages = [to_name(code) for code in stated.get("languages", ()) if code != UNKNOWN]
        if languages:
            lines += [f"Languages: {', '.join(languages)}.\n"]
    if vocabulary := stated.get(VOCABULARY_FROM):
        lines += ["The vocabulary was trained on these names, too.\n"] if vocabulary == trained_on else [
            "Names that its vocabulary was trained on, by source:\n", *_source_table(vocabulary)
        ]  # fmt: skip
    return lines


def _source_table(counts: Mapping[str, int]) -> list[str]:
    rows = [
        f"| {source.replace('|', '/')} | {count:,} | {license_of(source) or 'not known to be open'} |"
        for source, count in counts.items()
    ]
    return ["| source | names | license of the names |", "|---|---:|---|", *rows, ""]


def _training(stated: Mapping[str, Any]) -> list[str]:
    training: Mapping[str, Any] = stated.get("training", {})
    if not training:
        return []
    rows = [f"- {key.replace('_', ' ')}: {value}" for key, value in training.items() if value is not None]
    return ["## Training\n", *rows, ""]


def _tuning(stated: Mapping[str, Any]) -> list[str]:
    tuned: Mapping[str, Any] = stated.get(TUNED, {})
    if not tuned:
        return []
    rows = [
        f"| {name} | {row['n']:,} | {_percent(row['before'][0])} | {_percent(row['after'][0])} | "
        f"{100 * row['gain']['difference']:+.1f} [{100 * row['gain']['low']:+.1f}, {100 * row['gain']['high']:+.1f}] |"
        for name, row in tuned["strata"].items()
    ]
    return [
        "## Tuning\n",
        f"It was tuned on {tuned['trained']:,} mentions with known concepts, and tested on {tuned['tested']:,} others. Acc@1 in percent, with "
        "the 95 % interval of the gain; strata are by what of a mention occurs among those that it was tuned on.\n",
        "| mentions | n | before | after | gain |",
        "|---|---:|---:|---:|---|",
        *rows,
        "",
    ]


def _evaluation(evaluation: CardEvaluation | None) -> list[str]:
    if evaluation is None:
        return ["## Evaluation\n", "This card has none. `xsap evaluate MENTIONS --index index/` gives one.\n"]
    rows = [
        f"| {score.name} | {score.n:,} | {_percent(score.accuracy)} | "
        + (f"{_percent(score.low)} – {_percent(score.high)} |" if math.isfinite(score.low + score.high) else "– |")
        for score in evaluation.scores
    ]
    where = (
        f"The dictionary was the English names of the terminology {evaluation.dictionary[:12]}…, the file of mentions has the sha256 "
        f"{evaluation.mentions[:12]}…."
    )
    return [
        "## Evaluation\n",
        f"Mentions whose correct concept came first (Acc@1), with 95 % bootstrap intervals, after the last step. {where}\n",
        "| language | n | Acc@1, % | interval |",
        "|---|---:|---:|---|",
        *rows,
        "",
    ]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if math.isfinite(value) else "–"


def _license(stated: Mapping[str, Any]) -> list[str]:
    license_id = stated.get(LICENSE)
    if license_id is None:
        return [
            "## License\n",
            "Not stated. Before it is published, write its license into the first lines of this file.\n",
        ]
    from_base = f", as its base model {stated[BASE_MODEL]} states" if BASE_MODEL in stated else ""
    return ["## License\n", f"{license_id}{from_base}. The sources of its data have licenses of their own.\n"]
