"""Upload a model or an index to the Hugging Face hub: the files that its manifest names, and the model card.

Names and vectors of a terminology that may not be passed on leave the machine only if that was asked for: those of an index, and the pieces of a
vocabulary that was trained on names. A new repository is private unless another was asked for. Where a model is on this machine, which an index
records, is not uploaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from xsap.artifacts import MANIFEST, open_artifact, read_kind, sealed_text
from xsap.encoding.model_card import BASE_MODEL, README, VOCABULARY_FROM, read_stated
from xsap.errors import ArtifactError, ConfigError
from xsap.linking.encoder_spec import LOCATION
from xsap.linking.index import Index
from xsap.linking.index_files import INDEX_KIND
from xsap.terms.source_licenses import count_sources, describe_sources, restricted

MODEL_KIND = "model"
_REPOSITORY = {MODEL_KIND: "model", INDEX_KIND: "dataset"}  # kind of folder → the hub's kind of repository
_UNRECORDED = "names that xsap has no record of"


class HubApi(Protocol):
    """What is needed of `huggingface_hub.HfApi`."""

    def create_repo(self, repo_id: str, *, private: bool, repo_type: str, exist_ok: bool) -> Any: ...  # noqa: D102
    def create_commit(  # noqa: D102
        self, repo_id: str, operations: list[Any], *, commit_message: str, repo_type: str
    ) -> Any: ...


@dataclass(frozen=True)
class Upload:
    """What would be uploaded of a folder.

    Attributes:
        folder: The folder.
        kind: model or index.
        files: Path in the repository → a file of the folder, or its content.
        restricted: Sources whose names or vectors are in it and may not be shared by anybody, as far as is known, with numbers of names.
    """

    folder: Path
    kind: str
    files: Mapping[str, Path | bytes]
    restricted: Mapping[str, int]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(len(file) if isinstance(file, bytes) else file.stat().st_size for file in self.files.values())


def plan_upload(folder: Path) -> Upload:
    """What to upload of a folder; every hash is checked.

    Args:
        folder: A model or an index that xsap saved.

    Raises:
        ArtifactError: It is none, or damaged.
    """
    kind = read_kind(folder)
    if kind not in _REPOSITORY:
        found = (
            f"found a folder of kind '{kind}'" if kind else "found another folder. Save the model first: xsap convert"
        )
        raise ArtifactError(f"{folder}: expected a model or an index that xsap saved, {found}")
    manifest = open_artifact(folder, kind)
    files: dict[str, Path | bytes] = {name: folder / name for name in manifest["files"]}
    if (folder / README).is_file():
        files[README] = folder / README
    if kind == INDEX_KIND:
        model = manifest["model"]
        local = any(
            str(model[key] or "").startswith((".", "/", "~")) or Path(str(model[key])).exists() for key in LOCATION
        )
        manifest |= {"model": model | (dict.fromkeys(LOCATION) if local else {})}
    files[MANIFEST] = sealed_text(manifest).encode()
    counts = _index_sources(folder) if kind == INDEX_KIND else _vocabulary_sources(folder)
    return Upload(folder, kind, files, {source: counts[source] for source in restricted(counts)})


def _index_sources(folder: Path) -> dict[str, int]:
    index = Index.load(folder)
    names, preferred = count_sources(index.names["sources"]), count_sources(index.concepts["vocabulary"])
    return names | {source: count for source, count in preferred.items() if source and source not in names}


def _vocabulary_sources(folder: Path) -> dict[str, int]:
    stated = read_stated(folder)
    if VOCABULARY_FROM in stated:
        return {str(source): int(count) for source, count in stated[VOCABULARY_FROM].items()}
    return {} if BASE_MODEL in stated else {_UNRECORDED: 0}


def upload_folder(
    plan: Upload, repo_id: str, api: HubApi, *, public: bool = False, include_restricted: bool = False
) -> str:
    """Upload a folder in one commit; the repository is made if there is none.

    Args:
        plan: What to upload.
        repo_id: Id of the repository, `owner/name`.
        api: The hub.
        public: Whether a new repository is public.
        include_restricted: Whether names or vectors of `plan.restricted` may be uploaded.

    Returns:
        Where it is, in the hub's words.

    Raises:
        ConfigError: It has restricted names and `include_restricted` is false; or the hub refuses it.
    """
    if plan.restricted and not include_restricted:
        what = "names and vectors" if plan.kind == INDEX_KIND else "a vocabulary that was trained on names"
        raise ConfigError(
            f"{plan.folder} has {what} of sources that are not known to be open: {describe_sources(plan.restricted)}; "
            "add --include-restricted if their licenses let you share them there"
        )
    from huggingface_hub import CommitOperationAdd

    operations = [CommitOperationAdd(name, content) for name, content in sorted(plan.files.items())]
    kind = _REPOSITORY[plan.kind]
    try:
        made = api.create_repo(repo_id, private=not public, repo_type=kind, exist_ok=True)
        api.create_commit(repo_id, operations, commit_message=f"{plan.kind} of xsap", repo_type=kind)
    except Exception as error:  # the hub's client raises many kinds, which all mean the same to the user
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"{repo_id}: the hub rejected the upload: {reason}. Log in with a token that may write there: hf auth login"
        ) from None
    return str(made)
