"""Tokenizers: how texts become numbers. They are those of HuggingFace's library `tokenizers`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TokenizerKind = Literal["words", "wordpiece", "bpe", "characters"]
SPECIAL = ["[PAD]", "[UNK]"]
UNKNOWN = 1
PREFIX = "##"
"""Begins a piece that continues a word."""


def train_tokenizer(texts: Sequence[str], kind: TokenizerKind, vocabulary: int, *, lowercase: bool) -> str:
    """Return a tokenizer trained on texts, as JSON. It has at most `vocabulary` tokens, or one for each character.

    The same texts give the same tokenizer.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    steps = [normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])]
    normalizer = normalizers.Sequence(steps)
    split = pre_tokenizers.Whitespace() if kind != "characters" else pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    special, unknown = list(SPECIAL), SPECIAL[UNKNOWN]
    if kind == "wordpiece":  # else the trainer would number these in the order of a hash, which changes
        special += [PREFIX + c for c in sorted({c for text in texts for c in normalizer.normalize_str(text)})]
    trainer = {"bpe": trainers.BpeTrainer, "wordpiece": trainers.WordPieceTrainer}.get(kind, trainers.WordLevelTrainer)
    model = {"bpe": models.BPE, "wordpiece": models.WordPiece}.get(kind, models.WordLevel)
    tokenizer = Tokenizer(model(unk_token=unknown))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, split
    with _use_one_thread():
        tokenizer.train_from_iterator(
            texts, trainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
        )
    if kind == "wordpiece":  # as ordinary pieces
        plain = Tokenizer(models.WordPiece(tokenizer.get_vocab(), unk_token=unknown))
        plain.normalizer, plain.pre_tokenizer = normalizer, split
        tokenizer = plain
    return tokenizer.to_str()


def count_tokens(tokenizer: str) -> int:
    """Return the size of the vocabulary, including the padding."""
    return _read(tokenizer).get_vocab_size()


def tokenize(tokenizer: str, texts: Sequence[str]) -> list[list[int]]:
    """Return the tokens of each text, at least one: 1 is unknown, and 0, the padding, does not occur."""
    with _use_one_thread():
        encoded = _read(tokenizer).encode_batch(list(texts), add_special_tokens=False)
    return [[token or UNKNOWN for token in text.ids] or [UNKNOWN] for text in encoded]


def pad(sequences: Sequence[Sequence[int]], length: int) -> Tensor:
    """Return the beginnings of sequences, (N, length) int64, padded with 0."""
    x = torch.zeros(len(sequences), length, dtype=torch.int64)
    for row, tokens in zip(x, sequences, strict=True):
        row[: len(tokens)] = torch.tensor(tokens[:length])
    return x


def _read(tokenizer: str) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(tokenizer)


@contextlib.contextmanager
def _use_one_thread() -> Iterator[None]:
    """Keep the library from starting threads, after which this process could not be forked."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = before or "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
