"""Texts for an entity memory: tokenized in windows, each token with its place in the text as given, and spans as labels of tokens.

A text is normalized as the model's names are. Since that may change its length, every token keeps the characters of the original text that it
comes from, so that a span is exact in the text as the user has it. Texts that are too long for the model are split into windows, at the ends of
sentences where there are any; each window is computed alone.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from xsap.encoding.encoder import BLANK_PIECES
from xsap.encoding.packing import NAMES_PER_BATCH, Tokens
from xsap.errors import ConfigError
from xsap.text import TextPolicy, normalize
from xsap.text_in.words import WORD, kind_of

OUTSIDE, BEGIN, INSIDE = 0, 1, 2  # labels of tokens
NO_LABEL = -100  # of a token of which it is not known whether it is part of a mention
_WORD = re.compile(r"\S+")
_SENTENCE_END = re.compile(r"[.!?;\n。！？；।؟۔]")


class TokenSpans(NamedTuple):
    """m spans of tokens.

    Attributes:
        texts: (m,) int64, the window that each lies in.
        starts: (m,) int64, its first token, counted within the window from the special token at its start.
        ends: (m,) int64, the token after its last.
    """

    texts: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> "TokenSpans":
        """The spans at `rows`, in that order."""
        return TokenSpans(*(column[rows] for column in self))


@dataclass(frozen=True)
class TokenizedTexts:
    """n windows of texts.

    Attributes:
        tokens: Their token ids, with the special tokens around each window.
        starts: (T,) int64, where each token starts in its text as given; 0 for special tokens.
        ends: (T,) int64, where it ends; 0 for special tokens.
        sources: (n,) int64, the text that each window is part of.
    """

    tokens: Tokens
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    sources: NDArray[np.int64]

    def characters(self, spans: TokenSpans) -> NDArray[np.int64]:
        """(m, 3): the text, start and end in characters of each span."""
        first = self.tokens.offsets[spans.texts] + spans.starts
        last = self.tokens.offsets[spans.texts] + spans.ends - 1
        return np.stack([self.sources[spans.texts], self.starts[first], self.ends[last]], 1)


def tokenize_texts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, policy: TextPolicy, max_tokens: int
) -> TokenizedTexts:
    """Tokenize texts in windows.

    Args:
        texts: The texts as given.
        tokenizer: A fast Hugging Face tokenizer, which says where tokens come from.
        policy: How the model normalizes text.
        max_tokens: Tokens of a window, special tokens included.

    Raises:
        ConfigError: The tokenizer does not say where tokens come from, or has no special token at each end.
    """
    first, last = _special_ends(tokenizer)
    ids, bounds, lengths, sources = [np.zeros(0, np.int32)], [np.zeros((0, 2), np.int64)], [0], []
    for number, pieces, places in _pieces(texts, tokenizer, policy):
        for start, end in _windows(texts[number], places, max_tokens - 2):
            ids.append(np.array([first, *pieces[start:end], last], np.int32))
            bounds.append(np.concatenate([np.zeros((1, 2), np.int64), places[start:end], np.zeros((1, 2), np.int64)]))
            lengths.append(end - start + 2)
            sources.append(number)
    joined = np.concatenate(bounds)
    tokens = Tokens(np.concatenate(ids), np.cumsum(lengths, dtype=np.int64))
    return TokenizedTexts(tokens, joined[:, 0], joined[:, 1], np.array(sources, np.int64))


def _special_ends(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """The special tokens before and after a text."""
    around = tokenizer("")["input_ids"]
    if not tokenizer.is_fast or len(around) != 2:
        found = "a slow one" if not tokenizer.is_fast else f"one that adds {len(around)} special tokens"
        raise ConfigError(
            f"an entity memory needs a fast tokenizer that puts one special token before and one after a text, found {found}; "
            "choose another base model"
        )
    return int(around[0]), int(around[1])


def _pieces(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, policy: TextPolicy
) -> Iterator[tuple[int, list[int], NDArray[np.int64]]]:
    """(number, token ids, (tokens, 2) starts and ends in the text as given) of each text."""
    batch = max(1, NAMES_PER_BATCH // 100)  # texts are longer than names
    blank = tokenizer.get_vocab().get("\u2581", -1)
    for begin in range(0, len(texts), batch):
        normalized = [normalize_with_offsets(text, policy) for text in texts[begin : begin + batch]]
        encoded = tokenizer(
            [text for text, _ in normalized],
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,  # a text may be longer than the model's positions, for it is split afterward
        )
        for i, (text, places) in enumerate(normalized):
            offsets = np.array(encoded["offset_mapping"][i], np.int64).reshape(-1, 2)
            pieces = encoded["input_ids"][i]
            # SentencePiece says of a blank alone that it is the first character of its word
            offsets[np.array(pieces, np.int64) == blank, 1] = offsets[np.array(pieces, np.int64) == blank, 0]
            yield begin + i, pieces, _in_original(text, places, offsets)


def _in_original(text: str, places: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Offsets of tokens in a normalized text → in the text as given, without the blanks that a token begins with."""
    out = np.zeros_like(offsets)
    for row, (start, end) in enumerate(offsets.tolist()):
        while start < end and text[start].isspace():
            start += 1
        if start < end:
            out[row] = places[start, 0], places[end - 1, 1]
        else:  # a blank alone: an empty range where it is
            out[row] = places[min(start, len(places) - 1), 0] if len(places) else 0
    return out


def normalize_with_offsets(text: str, policy: TextPolicy) -> tuple[str, NDArray[np.int64]]:
    """A text as the policy normalizes it, word by word, and where each of its characters comes from.

    Args:
        text: The text as given.
        policy: How the model normalizes text.

    Returns:
        The normalized text, and (characters, 2) starts and ends in the text as given.

    >>> normalize_with_offsets("E\u0301tat  febril", TextPolicy("lower"))[1][:3].tolist()
    [[0, 2], [2, 3], [3, 4]]
    """
    parts: list[str] = []
    places: list[tuple[int, int]] = []
    for match in _WORD.finditer(text):
        word, start = match[0], match.start()
        normal = normalize(word, policy)
        if not normal:  # invisible characters alone
            continue
        if parts:
            places.append((places[-1][1], start))
        parts.append(normal)
        if len(normal) == len(word):
            places += [(start + i, start + i + 1) for i in range(len(word))]
        else:
            places += [(start + i, start + j) for i, j in _places_in_word(word, normal, policy)]
    return " ".join(parts), np.array(places, np.int64).reshape(-1, 2)


def _places_in_word(word: str, normal: str, policy: TextPolicy) -> list[tuple[int, int]]:
    """Which characters of a word each character of its normalized form comes from: those that its prefix needs more than the one before."""
    lengths = [min(len(normalize(word[:end], policy)), len(normal)) for end in range(len(word) + 1)]
    lengths = np.maximum.accumulate(lengths).tolist()
    lengths[-1] = len(normal)
    places: list[tuple[int, int]] = []
    for i in range(len(normal)):
        end = next(end for end, length in enumerate(lengths) if length > i)
        while end < len(word) and lengths[end + 1] == lengths[end]:  # combining marks belong to their letter
            end += 1
        start = places[-1][1] if places else 0
        if places and lengths[places[-1][1]] > i:  # one character became several
            start = places[-1][0]
        places.append((start, end))
    return places


def _windows(text: str, places: NDArray[np.int64], size: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most `size` tokens that cover a text: split after the last end of a sentence in their second half, else between words."""
    start = 0
    while len(places) - start > size:
        end = start + size
        cut = _last_cut(text, places, start + size // 2, end)
        yield start, cut
        start = cut
    yield start, len(places)


def _last_cut(text: str, places: NDArray[np.int64], low: int, high: int) -> int:
    between = [text[places[i - 1, 0] : places[i, 0]] for i in range(low + 1, high + 1)]
    blanks = [i for i, gap in enumerate(between) if gap[-1:].isspace()]
    for found in ([i for i in blanks if _SENTENCE_END.search(between[i])], blanks):
        if found:
            return low + 1 + found[-1]
    return high


def find_token_spans(texts: TokenizedTexts, characters: NDArray[np.int64]) -> tuple[TokenSpans, NDArray[np.int64]]:
    """Spans of characters as spans of tokens.

    Args:
        texts: The tokenized texts.
        characters: (k, 3) the text, start and end of each span, in any order.

    Returns:
        The spans that have tokens and lie in one window, and their rows in `characters`, ascending.
    """
    windows: dict[int, list[int]] = {}
    for window, source in enumerate(texts.sources.tolist()):
        windows.setdefault(source, []).append(window)
    found: list[tuple[int, int, int]] = []
    rows = []
    for row, (source, start, end) in enumerate(characters.tolist()):
        hits = [hit for window in windows.get(source, ()) if (hit := _tokens_within(texts, window, start, end))]
        if len(hits) == 1:
            found.append(hits[0])
            rows.append(row)
    columns = np.array(found, np.int64).reshape(-1, 3)
    return TokenSpans(columns[:, 0], columns[:, 1], columns[:, 2]), np.array(rows, np.int64)


def _tokens_within(texts: TokenizedTexts, window: int, start: int, end: int) -> tuple[int, int, int] | None:
    low, high = texts.tokens.offsets[window] + 1, texts.tokens.offsets[window + 1] - 1
    starts, ends = texts.starts[low:high], texts.ends[low:high]
    inside = np.flatnonzero((starts < end) & (ends > start) & (ends > starts))
    return (window, int(inside[0]) + 1, int(inside[-1]) + 2) if len(inside) else None


def tokens_of_places(texts: TokenizedTexts, characters: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(T,) which tokens overlap places in texts, in whatever windows; characters: (k, 3) the text, start and end of each place."""
    windows = np.searchsorted(texts.sources, np.stack([characters[:, 0], characters[:, 0] + 1]))
    found = np.zeros(len(texts.tokens.ids), bool)
    for low, high, (_, start, end) in zip(*texts.tokens.offsets[windows].tolist(), characters.tolist(), strict=True):
        starts, ends = texts.starts[low:high], texts.ends[low:high]
        found[low:high] |= (starts < end) & (ends > start) & (ends > starts)
    return found


def label_tokens(tokens: Tokens, spans: TokenSpans) -> NDArray[np.int64]:
    """(T,) OUTSIDE, BEGIN or INSIDE of each token; of spans that overlap, the one that starts first counts, of these the longest."""
    labels = np.full(len(tokens.ids), OUTSIDE, np.int64)
    order = np.lexsort((-spans.ends, spans.starts, spans.texts))
    first = tokens.offsets[spans.texts] + spans.starts
    after = tokens.offsets[spans.texts] + spans.ends
    for start, end in zip(first[order].tolist(), after[order].tolist(), strict=True):
        if not labels[start:end].any():
            labels[start:end] = INSIDE
            labels[start] = BEGIN
    return labels


class WordPieces(NamedTuple):
    """Which token ids are parts of words, as far as the ids themselves tell.

    Attributes:
        continues: (pieces,) bool, whether a piece goes on with the word of a piece before it that ends in a letter or digit.
        ends_word_part: (pieces,) bool, whether it ends in a letter or digit.
        is_blank: (pieces,) bool, whether it is a blank and nothing else.
    """

    continues: NDArray[np.bool_]
    ends_word_part: NDArray[np.bool_]
    is_blank: NDArray[np.bool_]


def word_pieces(tokenizer: PreTrainedTokenizerBase) -> WordPieces:
    """Which pieces of a vocabulary are parts of words: of WordPiece (##), SentencePiece (▁) or byte-level BPE (Ġ).

    Characters of scripts without spaces between words are words of their own.
    """
    pieces = [piece or "" for piece in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
    marked = {mark: any(piece.startswith(mark) for piece in pieces) for mark in ("##", "\u2581", "\u0120")}
    byte_level = marked["\u0120"] and not marked["\u2581"]

    def in_word(character: str) -> bool:
        if byte_level and character > "\u007f":  # a byte of a letter, as a rule; blanks are such characters, too
            return character not in "\u0120\u010a"
        return character.isalnum() and kind_of(character) == WORD

    if marked["##"] and not (marked["\u2581"] or byte_level):
        continues = [piece.startswith("##") and in_word(piece[2:3] or " ") for piece in pieces]
        ends = [in_word(piece[-1:] or " ") for piece in pieces]
    else:
        continues = [in_word(piece[:1] or " ") for piece in pieces]
        ends = [in_word(piece[-1:] or " ") for piece in pieces]
    special = list(tokenizer.all_special_ids)
    blank = [not piece.strip(BLANK_PIECES) for piece in pieces]
    out = WordPieces(np.array(continues, bool), np.array(ends, bool), np.array(blank, bool))
    out.continues[special] = out.ends_word_part[special] = False
    return out


def whole_words(labels: NDArray[np.int64], ids: NDArray[np.int64], pieces: WordPieces) -> NDArray[np.int64]:
    """Labels by which a span has whole words: of each word, that of its first token.

    Args:
        labels: (T,) OUTSIDE, BEGIN or INSIDE of each token.
        ids: (T,) token ids.
        pieces: Which are parts of words.

    Returns:
        (T,) labels; INSIDE for the other tokens of a word whose first token is in a span; a blank is in a span if both its sides are.
    """
    inner = pieces.continues[ids]
    inner[1:] &= pieces.ends_word_part[ids[:-1]]
    inner[:1] = False
    at = np.arange(len(ids))
    first = labels[np.maximum.accumulate(np.where(inner, 0, at))]
    out = np.where(inner, np.where(first == OUTSIDE, OUTSIDE, INSIDE), labels)
    before, after = np.concatenate([[OUTSIDE], out[:-1]]), np.concatenate([out[1:], [OUTSIDE]])
    between = (before != OUTSIDE) & (after == INSIDE)
    return np.where(pieces.is_blank[ids], np.where(between, INSIDE, OUTSIDE), out)


def decode_spans(labels: NDArray[np.int64], tokens: Tokens) -> TokenSpans:
    """Spans of labels: one starts at each BEGIN, and at an INSIDE that follows none; special tokens are in no span.

    Args:
        labels: (T,) OUTSIDE, BEGIN or INSIDE of each token.
        tokens: Token ids of n windows, T in all.

    Returns:
        The spans, in order.
    """
    labels = labels.copy()
    labels[tokens.offsets[:-1]] = labels[tokens.offsets[1:] - 1] = OUTSIDE
    before = np.concatenate([[OUTSIDE], labels[:-1]])
    begins = (labels == BEGIN) | ((labels == INSIDE) & (before == OUTSIDE))
    after = np.concatenate([labels[1:] != INSIDE, [True]])
    starts, lasts = np.flatnonzero(begins), np.flatnonzero((labels != OUTSIDE) & after)
    texts = np.searchsorted(tokens.offsets, starts, side="right") - 1
    return TokenSpans(texts, starts - tokens.offsets[texts], lasts + 1 - tokens.offsets[texts])
