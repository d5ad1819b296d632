"""Your own labelled texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from dlopt.base.data import DataPart, DataStream
from dlopt.data import _files, _own_splits, _texts, _tokenizing
from dlopt.data import _targets as data_targets
from dlopt.data._targets import TestFraction
from dlopt.data._texts import LabelledTexts
from dlopt.data._tokenizing import TokenizerKind
from dlopt.errors import OptionError, did_you_mean, join_truncated
from dlopt.parts import Data, Dataset, Split
from dlopt.ranges import Count, Range
from dlopt.storage.fingerprint import digest_files, fingerprint_files

BYTES_PER_TOKEN = 16
"""Of a text, so many bytes are kept for each token of `length`: words have about 6."""
BYTE_VALUES = 256


@dataclass(frozen=True)
class TextData(Data):
    """Your own labelled texts: a CSV file with a column of texts and a column of labels, or a folder for each class.

    In a folder, every text is a .txt file in the folder of its class: reviews/good/1.txt, reviews/bad/1.txt. A
    tokenizer is trained on the training texts of the run, and stored with it. It makes each text a sequence of T
    tokens: 0 is padding at the end of shorter texts, 1 is unknown. T is `length`, or the longest training text if that
    is shorter. Longer texts are cut off at their end; a notice counts them. Of a text, no more than 16 bytes for each
    token of `length` are read. Spaces around a text and around a label do not count. Empty texts and labels are
    refused, and labels that the training texts lack.

    words        sequences of letters and digits, and sequences of other signs, are a token each if they are among the
                 most frequent ones; others are unknown
    wordpiece    parts of words; those inside a word begin with ##
    bpe          parts of words, by byte pair encoding: the most frequent pair of tokens becomes a token, repeatedly
    characters   each character is a token

    path              the CSV file, whose first line names the columns, or the folder
    text              the column of texts
    target            the column of labels; a folder has none
    tokenizer         words, wordpiece, bpe or characters
    vocabulary        maximum number of different tokens, padding and unknown included; wordpiece and bpe have a token
                      for every character in any case
    lowercase         do not distinguish capital letters
    length            maximum number of tokens of a text
    delimiter         of the CSV file: the character between two cells, or comma, semicolon, tab, bar; auto: the one of
                      these four that gives the most columns in the first line
    encoding          of the files: auto, UTF-8 or what a byte order mark says; or a name such as latin-1, cp1252
    test_fraction     fraction of the texts held out for the test, unless they have a path: a random subset, stratified
                      by class, and the same for every seed
    validation_path   a file or folder with the validation texts: none are then held out of the training texts
    test_path         a file or folder with the test texts

    Source: the tokenizers are those of HuggingFace's library `tokenizers`, after Unicode normalization NFC: Sennrich,
    Haddow and Birch 2016 for bpe, Wu et al. 2016 for wordpiece.
    """

    text: str
    target: str
    tokenizer: TokenizerKind
    vocabulary: Annotated[int, Range(ge=4)]
    lowercase: bool
    length: Count
    delimiter: str
    encoding: str
    test_fraction: TestFraction
    validation_path: str | None
    test_path: str | None

    def files(self) -> list[Path]:
        keys = {"path": self.path} | {key: p for key in _own_splits.KEYS.values() if (p := getattr(self, key))}
        return [file for key, path in keys.items() for file in _texts.list_files(path, key)]

    def load(self) -> Dataset:
        files = self.files()
        return _files.cache.load(self, fingerprint_files(files), lambda: self._dataset(files))

    def load_like(self, encoding: Mapping[str, Any]) -> Dataset:
        names, counts = _read_classes(encoding), _TokenCounts(encoding["length"])
        _texts.list_files(self.path)
        read = self._read("path")
        labels = [names[0]] * len(read.texts) if read.labels is None else read.labels
        x = counts.add(_tokenizing.tokenize(encoding["tokenizer"], read.texts))
        split = Split(x, data_targets.encode_known_classes(np.array(labels), names))
        notices = tuple(counts.notices(str(self.path)))
        dataset = Dataset(split, split, len(names), names, encoding, notices, tokens=encoding["tokens"])
        return replace(dataset, is_labeled=read.labels is not None, source=read.source)

    def stream(self, encoding: Mapping[str, Any]) -> DataStream:
        names, counts, path = _read_classes(encoding), _TokenCounts(encoding["length"]), str(self.path)
        total = sum(file.stat().st_size for file in _texts.list_files(self.path))

        def iter_parts() -> Iterator[DataPart]:
            for read, done in _texts.iter_texts(path, self.text, self.delimiter, self.encoding):
                _texts.refuse_empty(path, read)
                x = counts.add(_tokenizing.tokenize(encoding["tokenizer"], read.texts))
                split = Split(x, data_targets.make_zeros(len(x), len(names), is_classes=True))
                part = Dataset(split, split, len(names), names, encoding, tokens=encoding["tokens"], is_labeled=False)
                yield DataPart(replace(part, source=read.source), done)

        return DataStream(iter_parts(), total, "bytes", lambda: counts.notices(path))

    def fit(self, train: Split, encoding: Mapping[str, Any]) -> Mapping[str, Any]:
        texts = _from_bytes(train.gather()[0])
        tokenizer = _tokenizing.train_tokenizer(texts, self.tokenizer, self.vocabulary, lowercase=self.lowercase)
        tokens = _tokenizing.tokenize(tokenizer, texts)
        if len(set().union(*tokens)) < 2:
            raise OptionError("text", f"the training texts repeat one of the {self.tokenizer}; nothing can be learned")
        count, lengths = _tokenizing.count_tokens(tokenizer), list(map(len, tokens))
        length = min(self.length, max(lengths))
        cut = sum(n > length for n in lengths)
        notices = _note_cut(cut, len(lengths), max(lengths), length, "the training split")
        return {**encoding, "tokenizer": tokenizer, "tokens": count, "length": length, "notices": notices}

    def transform_inputs(self, inputs: Tensor, encoding: Mapping[str, Any]) -> Tensor:
        if inputs.dtype != torch.uint8:  # load_like makes tokens
            return inputs
        return _tokenizing.pad(_tokenizing.tokenize(encoding["tokenizer"], _from_bytes(inputs)), encoding["length"])

    def _dataset(self, files: Sequence[Path]) -> Dataset:
        keys = {"train": "path", **{name: key for name, key in _own_splits.KEYS.items() if getattr(self, key)}}
        read = {name: self._read(key) for name, key in keys.items()}
        labels: dict[str, list[str]] = {}
        for name, key in keys.items():
            found = read[name].labels
            if found is None:
                column = f"no labels in a column {self.target}" if _is_table(read[name]) else "no folder for each class"
                similar = did_you_mean(self.target, read[name].source.header) if _is_table(read[name]) else ""
                raise OptionError("target" if key == "path" else key, f"{getattr(self, key)} has {column}{similar}")
            labels[name] = found
        _texts.check_labels(labels["train"], self.target, needs_two=self.test_path is None)
        targets, names = data_targets.encode_classes(np.array(labels["train"]), "classes")
        limit = BYTES_PER_TOKEN * self.length
        encoded = {name: [text.encode()[:limit] for text in texts.texts] for name, texts in read.items()}
        width = max(max(map(len, texts)) for texts in encoded.values())
        _files.check_memory(files[0], 2 * width * sum(map(len, encoded.values())))
        splits = {"train": Split(_to_tensor(encoded["train"], width), targets)}
        for name in labels.keys() - {"train"}:
            if new := set(labels[name]) - set(names):
                wrong = f"{getattr(self, keys[name])} has the labels {join_truncated(sorted(new))}"
                raise OptionError(keys[name], f"{wrong}; the training texts have {join_truncated(names)}")
            known = data_targets.encode_known_classes(np.array(labels[name]), names)
            splits[name] = Split(_to_tensor(encoded[name], width), known)
        train, test = splits["train"], splits.get("test")
        if test is None:
            rows = data_targets.split_test(targets, self.test_fraction)
            train, test = (Split(train.inputs[i], targets[i]) for i in rows)
        encoding = {"classes": list(names), "target": self.target, "sha256": digest_files(files)}
        dataset = Dataset(train, test, len(names), names, encoding, tokens=BYTE_VALUES)
        return replace(dataset, validation=splits.get("validation"))

    def _read(self, key: str) -> LabelledTexts:
        path: str = getattr(self, key)
        try:
            return _texts.read_texts(path, self.text, self.target, self.delimiter, self.encoding)
        except OptionError as error:
            place = "" if path in str(error) else f"{path}: "
            raise OptionError(key if error.key == "path" else error.key, f"{place}{error}") from error


def _is_table(read: LabelledTexts) -> bool:
    return read.source.header != ["file"]


def _to_tensor(texts: Sequence[bytes], width: int) -> Tensor:
    """Return texts as bytes (N, width), padded with 0."""
    x = np.zeros((len(texts), width), np.uint8)
    for row, text in zip(x, texts, strict=True):
        row[: len(text)] = np.frombuffer(text, np.uint8)
    return torch.from_numpy(x)


def _from_bytes(x: Tensor) -> list[str]:
    """Return the texts of bytes (N, width). A character that was cut is left out."""
    return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in x.numpy()]


def _read_classes(encoding: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the classes of a run. Raise OptionError if it was not trained on texts."""
    if "tokenizer" not in encoding:
        raise OptionError("path", "texts need a run that was trained on texts; this run was not")
    return tuple(encoding["classes"])


class _TokenCounts:
    """Pads the tokens of texts to a length, and counts those that are cut off or unknown."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._texts = self._cut = self._longest = self._tokens = self._unknown = 0

    def add(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Return the tokens of some texts, (N, length)."""
        x, lengths = _tokenizing.pad(tokens, self._length), [len(text) for text in tokens]
        self._texts += len(lengths)
        self._cut += sum(n > self._length for n in lengths)
        self._longest = max(self._longest, *lengths)
        self._tokens += int((x > 0).sum())
        self._unknown += int((x == _tokenizing.UNKNOWN).sum())
        return x

    def notices(self, place: str) -> list[str]:
        """Return a notice if texts have more tokens than are used, and one if tokens are unknown."""
        notices = _note_cut(self._cut, self._texts, self._longest, self._length, place)
        if self._unknown:
            share = f"{self._unknown:,} of {self._tokens:,} tokens"
            notices.append(f"{share} of {place} are unknown to the run, which has a token for that")
        return notices


def _note_cut(cut: int, count: int, longest: int, length: int, place: str) -> list[str]:
    """Return a notice if some of the texts have more tokens than are used."""
    if not cut:
        return []
    wrong = f"{cut:,} of {count:,} texts of {place} have more than {length} tokens, up to {longest:,}"
    return [f"{wrong}; their ends are cut off (data.length)"]
