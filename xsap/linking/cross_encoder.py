"""A cross-encoder: each candidate is read together with the mention in its context.

The context is computed once for all candidates of a mention, which attend to it and to themselves but not to one another, so scores do not depend
on the other candidates or on their order. Only in the highest layers does a candidate attend to the context; below, its states depend on its own
text alone and are computed once for all mentions that have it (as Cao et al., ACL 2020, DeFormer, for questions and passages). What is read is the
state x of a candidate's first token. With r the retrieval score, and e = 1 where the mention is a name or a code of the candidate,

    logit of a candidate = w · r + v · x + u · e          logit of "none of them" = b

with learned w > 0, v, u and b. v and u are 0 before training, so that training begins at the retriever itself. The score of a candidate is its
logit / w: with v = u = 0 it is bitwise the retrieval score. Models that can't be packed read mention and candidate as one text instead.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xsap.artifacts import manifest_hash, open_artifact, publish
from xsap.encoding.encoder import TOKENS_PER_BATCH, Dtype, Encoder
from xsap.encoding.layers import cut_layers, transformer_layers
from xsap.encoding.model_folder import position_count
from xsap.encoding.packed_layers import Between, can_pack, packed_first, packed_states
from xsap.encoding.packing import Tokens, Transformer, pack, pack_with_prefixes, padded_states
from xsap.errors import ArtifactError, ConfigError
from xsap.linking.cross_inputs import MARKERS, CrossInputs, InputWindows, cross_inputs
from xsap.linking.rerank import RERANKED, RerankQuery

RERANKER_KIND, RERANKER_JSON, HEAD, ENCODER = "reranker", "reranker.json", "head.safetensors", "encoder"
START_SCALE = 20.0  # of retrieval scores in logits, until it is fitted
NO_CANDIDATE = -1e9  # logit where there is no candidate: its probability is 0, and the logit is a finite number
JOINT_LAYERS = 4  # the highest, by default
BATCHES_PER_GROUP = 8  # whose candidates' texts are read together
_MARKER_SEED = 0


class CrossEncoder(nn.Module):
    """Re-ranks by reading. As a torch module it gives the logits of a batch, for training.

    Attributes:
        encoder: The transformer and its tokenizer, which has MARKERS.
        windows: How much is read.
        joint_layers: The highest layers, in which candidates attend to the context; None for all.
        uses_context: Whether contexts are read; False for a model that was trained on mentions alone.
        content_hash: Of the folder that it was opened from; None for a new one.
        path: That folder.
        retriever: What the retrieval scores of its training came from, see `retriever_of`; None for a new one.
        top: Candidates of a mention in its training.
    """

    def __init__(
        self, encoder: Encoder, windows: InputWindows, *, joint_layers: int | None = None, uses_context: bool = True
    ) -> None:
        """Wrap an encoder, whose tokenizer must have MARKERS (`with_markers`).

        Args:
            encoder: The encoder.
            windows: How much is read.
            joint_layers: The highest layers, in which candidates attend to the context, if there are more and the model can be packed.
            uses_context: Whether contexts are read.

        Raises:
            ConfigError: The windows are too small, or longer than the model's positions.
        """
        super().__init__()
        check_windows(encoder, windows)
        self.encoder, self.windows, self.uses_context = encoder, windows, uses_context
        self.content_hash: str | None = None
        self.path: Path | None = None
        self.retriever: dict[str, Any] | None = None
        self.top = RERANKED
        self.head = nn.Linear(int(encoder.transformer.config.hidden_size), 1, bias=False)
        nn.init.zeros_(self.head.weight)
        # log of w / START_SCALE, b / START_SCALE, u
        self.numbers = nn.Parameter(torch.tensor([0.0, 0.5, 0.0]))
        self._packs = can_pack(encoder.transformer)
        layers = len(transformer_layers(encoder.transformer)) if self._packs else 0
        self.joint_layers = joint_layers if joint_layers is not None and joint_layers < layers else None
        # in a tuple, so that torch does not take the parts for further modules
        self._parts = (
            None if self.joint_layers is None else (cut_layers(encoder.transformer, layers - self.joint_layers),)
        )

    @property
    def scale(self) -> float:
        """w: how much retrieval scores count in a logit."""
        return float(self._numbers()[0].detach())

    @property
    def nil_score(self) -> float:
        """b / w: the score of "none of them"."""
        scale, nil, _ = (number.detach() for number in self._numbers())
        return float(nil / scale)

    def set_numbers(self, *, scale: float, nil: float, exact: float = 0.0) -> None:
        """Set the learned numbers.

        Args:
            scale: w, positive.
            nil: b.
            exact: u.
        """
        assert scale > 0, f"a scale of {scale}"
        with torch.no_grad():
            self.numbers.copy_(torch.tensor([math.log(scale / START_SCALE), nil / START_SCALE, exact]))

    def _numbers(self) -> tuple[Tensor, Tensor, Tensor]:
        scale, nil, exact = self.numbers.unbind()
        return START_SCALE * scale.exp(), START_SCALE * nil, exact

    def forward(self, inputs: CrossInputs) -> Tensor:
        """Logits.

        Args:
            inputs: g mentions, of which none has more than k candidates.

        Returns:
            (g, k + 1) float32: of each candidate, NO_CANDIDATE where there is none, and of "none of them" in the last column.
        """
        scale, nil, _ = self._numbers()
        own = self.contributions(inputs)
        flat = scale * torch.from_numpy(inputs.scores).to(own.device) + own
        k = int(inputs.counts.max(initial=1))
        real = torch.from_numpy(np.arange(k) < inputs.counts[:, None]).to(own.device)
        logits = flat.new_full(real.shape, NO_CANDIDATE).masked_scatter(real, flat)
        return torch.cat([logits, nil.expand(len(inputs), 1)], 1)

    def contributions(self, inputs: CrossInputs, below: "_TokenStates | None" = None) -> Tensor:
        """(n,) v · x + u · e of each candidate. below: states of their texts from the lower layers, if these were computed."""
        states = self._states(inputs.prefixes, inputs.texts, inputs.counts, below)
        exact = torch.from_numpy(inputs.exact).to(states.device)
        own: Tensor = self.head(states.float())[:, 0] + self._numbers()[2] * exact
        return own

    def _states(
        self, prefixes: Tokens, texts: Tokens, counts: NDArray[np.int64], below: "_TokenStates | None" = None
    ) -> Tensor:
        """(n, hidden) the state of each candidate's first token."""
        device, transformer = self.head.weight.device, self.encoder.transformer
        if self._parts is not None:
            [(lower, upper)] = self._parts
            below = below or _token_states(lower, texts, device)
            states = torch.cat([_token_states(lower, prefixes, device).of(prefixes), below.of(texts)])
            batch = pack_with_prefixes(prefixes, texts, counts).to(device)
            return packed_first(upper, batch, Between(0, lambda _: states[None]))
        if self._packs:
            return packed_first(transformer, pack_with_prefixes(prefixes, texts, counts).to(device))
        owner = np.repeat(np.arange(len(prefixes)), counts)
        pairs = join_tokens(prefixes.take(owner), texts)
        batch = pack(pairs).to(device)
        states = padded_states(transformer, batch, batch.longest, int(self.encoder.tokenizer.pad_token_id))
        at = torch.from_numpy(prefixes.lengths[owner]).to(device)
        return states[torch.arange(len(pairs), device=device), at]

    @torch.inference_mode()
    def score(self, queries: Sequence[RerankQuery], *, tokens_per_batch: int = TOKENS_PER_BATCH) -> list[list[float]]:
        """The score of each candidate of each query: retrieval score + (v · x + u · e) / w.

        Args:
            queries: What is re-ranked.
            tokens_per_batch: Tokens read at a time.
        """
        scale, training = self.scale, self.training
        if not self.uses_context:
            queries = [query._replace(context=None) for query in queries]
        # in an order of their own, so that not even rounding depends on the order in which they are given
        orders = [sorted(range(len(query.candidates)), key=query.candidates.__getitem__) for query in queries]
        ordered = [
            query._replace(candidates=tuple(query.candidates[i] for i in order))
            for query, order in zip(queries, orders, strict=True)
        ]
        inputs = cross_inputs(ordered, self.encoder.tokenizer, self.encoder.policy, self.windows)
        by_size = np.argsort(inputs.sizes, kind="stable")  # so that mentions of a batch are about equally long
        found: list[list[float]] = [[] for _ in queries]
        self.eval()
        for group in _split(by_size, inputs.sizes, BATCHES_PER_GROUP * tokens_per_batch):
            below = self._below(inputs.take(group).texts, tokens_per_batch)
            for part in _split(group, inputs.sizes, tokens_per_batch):
                with self.encoder.autocast(self.head.weight.device):
                    own = iter(self.contributions(inputs.take(part), below).tolist())
                for i in part.tolist():
                    found[i] = [0.0] * len(orders[i])
                    for at in orders[i]:
                        found[i][at] = queries[i].candidates[at].score + next(own) / scale
        self.train(training)
        return found

    def _below(self, texts: Tokens, tokens_per_batch: int) -> "_TokenStates | None":
        """States of candidates' texts from the lower layers, where these do not depend on the mention."""
        if self._parts is None:
            return None
        with self.encoder.autocast(self.head.weight.device):
            return _token_states(self._parts[0].lower, texts, self.head.weight.device, tokens_per_batch)

    def save(
        self, path: Path | str, *, retriever: dict[str, Any], metadata: dict[str, Any], overwrite: bool = False
    ) -> None:
        """Write the folder of a re-ranker, whole or not at all.

        Args:
            path: The folder.
            retriever: What the retrieval scores of its training came from, see `retriever_of`.
            metadata: Further keys of its `reranker.json`, such as how it was trained.
            overwrite: Whether to replace a re-ranker that is there.

        Raises:
            ArtifactError: The folder exists and may not be replaced.
        """
        stated = {
            "windows": {
                "context_tokens": self.windows.context_tokens,
                "candidate_tokens": self.windows.candidate_tokens,
            },
            "joint_layers": self.joint_layers,
            "uses_context": self.uses_context,
            "retriever": retriever,
            "top": self.top,
        }
        with publish(path, RERANKER_KIND, {}, overwrite=overwrite) as folder:
            self.encoder.save_pretrained(folder / ENCODER)
            save_file({"head": self.head.weight.detach().contiguous(), "numbers": self.numbers.detach()}, folder / HEAD)
            (folder / RERANKER_JSON).write_text(json.dumps(metadata | stated, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(
        cls, path: Path | str, *, device: str | torch.device | None = None, dtype: Dtype = "float32"
    ) -> "CrossEncoder":
        """Open the folder of a re-ranker, every hash checked.

        Args:
            path: The folder.
            device: Where to compute; by default CUDA if available, else the CPU.
            dtype: Of the encoder's matrix products.

        Raises:
            ArtifactError: It is missing, damaged, or something else.
        """
        folder = Path(path)
        content_hash = manifest_hash(open_artifact(folder, RERANKER_KIND))
        try:
            stated = json.loads((folder / RERANKER_JSON).read_text(encoding="utf-8"))
            tensors = load_file(folder / HEAD)
            encoder = Encoder.from_pretrained(folder / ENCODER, device=device, dtype=dtype)
            windows, joint = InputWindows(**stated["windows"]), stated["joint_layers"]
            model = cls(encoder, windows, joint_layers=joint, uses_context=bool(stated["uses_context"]))
            with torch.no_grad():
                model.head.weight.copy_(tensors["head"])
                model.numbers.copy_(tensors["numbers"])
            model.retriever, model.top = dict(stated["retriever"]), int(stated.get("top", RERANKED))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError):
            raise ArtifactError(f"{path}: its files don't fit together; train it again: xsap train-reranker") from None
        model.content_hash, model.path = content_hash, folder
        return model.to(next(encoder.transformer.parameters()).device).eval()


@dataclass(frozen=True)
class _TokenStates:
    """States of the tokens of distinct texts.

    Attributes:
        states: (T, hidden) of all tokens.
        starts: The token ids of each text → where its states begin.
    """

    states: Tensor
    starts: dict[bytes, int]

    def of(self, tokens: Tokens) -> Tensor:
        """(t, hidden) the states of the t tokens of some of these texts, one text after another."""
        starts = [self.starts[text] for text in _as_bytes(tokens)]
        within = np.arange(len(tokens.ids)) - np.repeat(tokens.offsets[:-1], tokens.lengths)
        places = torch.from_numpy(np.repeat(np.array(starts, np.int64), tokens.lengths) + within)
        return nn.functional.embedding(places.to(self.states.device), self.states)


def _as_bytes(tokens: Tokens) -> list[bytes]:
    return [tokens.ids[start:end].tobytes() for start, end in pairwise(tokens.offsets.tolist())]


def _token_states(
    transformer: Transformer, tokens: Tokens, device: torch.device, tokens_per_batch: int = TOKENS_PER_BATCH
) -> _TokenStates:
    """Run texts through a model, each once if there are several of it."""
    distinct = {text: number for number, text in reversed(list(enumerate(_as_bytes(tokens))))}
    chosen = tokens.take(np.sort(np.fromiter(distinct.values(), np.int64, len(distinct))))
    ends = np.flatnonzero(np.diff(np.cumsum(chosen.lengths) // tokens_per_batch)) + 1
    starts: dict[bytes, int] = {}
    states, size = [], 0
    for rows in np.split(np.arange(len(chosen)), ends):
        part = chosen.take(rows)
        batch = pack(part).to(device)
        states.append(packed_states(transformer, batch).flatten(0, 1))
        starts |= dict(zip(_as_bytes(part), (batch.starts + size).tolist(), strict=True))
        size += len(states[-1])
    return _TokenStates(torch.cat(states), starts)


def _split(rows: NDArray[np.int64], sizes: NDArray[np.int64], most: int) -> list[NDArray[np.int64]]:
    """Rows in their order, in parts of about this many tokens."""
    ends = np.flatnonzero(np.diff(np.cumsum(sizes[rows]) // most)) + 1
    return [part for part in np.split(rows, ends) if len(part)]


def join_tokens(left: Tokens, right: Tokens) -> Tokens:
    """Each text of the one, followed by its text of the other."""
    n = len(left)
    both = Tokens(
        np.concatenate([left.ids, right.ids]), np.concatenate([left.offsets, len(left.ids) + right.offsets[1:]])
    )
    taken = both.take(np.arange(2 * n).reshape(2, n).T.reshape(-1))
    return Tokens(taken.ids, taken.offsets[::2])


def with_markers(encoder: Encoder) -> Encoder:
    """Give an encoder MARKERS, in place. Their embeddings are the mean of all, moved a little, each to another side."""
    tokenizer, transformer = encoder.tokenizer, encoder.transformer
    if set(MARKERS) <= set(tokenizer.get_vocab()):
        return encoder
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKERS)})
    table = transformer.get_input_embeddings()
    mean, spread = table.weight.detach().mean(0), table.weight.detach().std()
    if len(tokenizer) > table.num_embeddings:
        transformer.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    noise = torch.randn(2, len(mean), generator=torch.Generator().manual_seed(_MARKER_SEED)) * spread.cpu()
    with torch.no_grad():
        ids = tokenizer.convert_tokens_to_ids(list(MARKERS))
        transformer.get_input_embeddings().weight[ids] = mean + noise.to(mean.device)
    return encoder


def check_windows(encoder: Encoder, windows: InputWindows) -> None:
    """Raise ConfigError for windows that are too small, or that together are longer than what the model can read."""
    if windows.context_tokens < 8 or windows.candidate_tokens < 4:
        found = f"{windows.context_tokens} and {windows.candidate_tokens}"
        raise ConfigError(f"expected at least 8 tokens of context and 4 of a candidate, found {found}")
    longest = position_count(encoder.transformer)
    total = windows.context_tokens + windows.candidate_tokens
    if longest is not None and total > longest:
        raise ConfigError(
            f"expected at most {longest} tokens of context and candidate together, the number of positions of the model; found {total}"
        )
