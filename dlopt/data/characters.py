"""The characters of a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dlopt.base.data import DataStream
from dlopt.base.sequences import PADDING_CLASS
from dlopt.data import _decoding, _files
from dlopt.data._targets import TestFraction
from dlopt.errors import OptionError, join_truncated
from dlopt.parts import Data, Dataset, Split
from dlopt.ranges import Count
from dlopt.storage.fingerprint import digest_files, fingerprint_files

SHIPPED = Path(__file__).with_name("genesis.txt")
PER_CHARACTER = 60
"""Bytes of memory per character: its code, and numbers of 8 bytes while it is encoded."""
UNKNOWN, FIRST = 1, 2
"""The token of a character that the training part lacks, and the token of its first character; 0 is padding."""
NAMES = {" ": "space", "\n": "newline", "\t": "tab"}


@dataclass(frozen=True)
class Characters(Data):
    """The next character of a text is to be predicted, at each step of a window of T characters.

    The text is cut into three parts in its order: training, validation and test. Each part is cut into windows, one
    after the other; characters after the last whole window are left out. A window of inputs c_1 ... c_T has the
    targets c_2 ... c_(T+1). The loss is the mean cross-entropy per character in nats; divided by log 2, it is in bits.
    A network sees nothing before its window, so its first predictions are worse. Its targets are among the later
    inputs, so a network that sees those is refused, such as arch.bidirectional=true.

    Classes are the characters of the training part in the order of Unicode. Tokens are the classes + 2: 0 is padding,
    and 1 stands for characters that the training part lacks. These are not scored as targets, and a notice counts them.
    Line ends are read as \\n. `dlopt evaluate RUN --data other.txt` scores every character of another text but the
    first.

    path                  a text file; null: the first book of Moses in the King James Version of 1611, 197 kB
    length                T, the number of characters in a window
    validation_fraction   fraction of the text that validates, before the test; it replaces validation.fraction
    test_fraction         fraction of the text for the test, at its end
    encoding              of the file: auto, UTF-8 or what its byte order mark says; or a name such as latin-1, cp1252

    Source: after Elman 1990, Finding structure in time. The shipped text is that of Debian's package bible-kjv-text,
    without the numbers of verses; it is in the public domain.
    """

    length: Count
    validation_fraction: TestFraction
    test_fraction: TestFraction
    encoding: str

    def files(self) -> list[Path]:
        return [] if self.path is None else [_files.find_file(self.path)]

    def load(self) -> Dataset:
        files = self.files()
        return _files.cache.load(self, fingerprint_files(files), lambda: self._dataset(*files or [SHIPPED]))

    def load_like(self, encoding: Mapping[str, Any]) -> Dataset:
        (file,) = self.files() or [SHIPPED]
        if "characters" not in encoding:
            raise OptionError("path", "a text needs a run that was trained on characters; this run was not")
        vocabulary, text = encoding["characters"], self._read(file)
        if len(text) < 2:
            raise OptionError("path", f"{file} has one character; there is no next one to predict")
        rest = -(len(text) - 1) % self.length
        split = _cut_windows(text, vocabulary, self.length, rest)
        return _make_dataset({"train": split, "test": split}, vocabulary, encoding, {str(file): text})

    def stream(self, encoding: Mapping[str, Any]) -> DataStream:
        wrong = "a run on characters predicts the next character at each step, so a text has no single prediction"
        raise OptionError("path", f"{wrong}; dlopt evaluate RUN --data {self.path} scores it")

    def _dataset(self, file: Path) -> Dataset:
        text = self._read(file)
        test, validation = (round(part * len(text)) for part in (self.test_fraction, self.validation_fraction))
        sizes = {"train": len(text) - validation - test, "validation": validation, "test": test}
        for name, size in sizes.items():
            if size <= self.length:
                wrong = f"the {name} part of {file} has {max(0, size):,} of {len(text):,} characters"
                raise OptionError("length", f"{wrong}, and a window needs data.length + 1 = {self.length + 1}")
        borders = np.cumsum([0, *sizes.values()])
        parts = {name: text[a:b] for name, a, b in zip(sizes, borders[:-1], borders[1:], strict=True)}
        vocabulary = "".join(sorted(set(parts["train"])))
        if len(vocabulary) < 2:
            raise OptionError("path", f"the training part of {file} repeats one character, {vocabulary!r}")
        splits = {name: _cut_windows(part, vocabulary, self.length) for name, part in parts.items()}
        encoding = {"characters": vocabulary, "sha256": digest_files([file])}
        del parts["train"]
        return _make_dataset(splits, vocabulary, encoding, parts)

    def _read(self, file: Path) -> str:
        content = _files.read_data_file(file)
        _files.check_memory(file, PER_CHARACTER * len(content))
        text = _decoding.decode(file, content, self.encoding).replace("\r\n", "\n").replace("\r", "\n")
        if not text.strip():
            raise OptionError("path", f"{file} is empty")
        return text


def _cut_windows(text: str, vocabulary: str, length: int, padding: int = 0) -> Split:
    """Return the windows of a text and their targets, after this many steps of padding at its end."""
    codes, known = (np.frombuffer(x.encode("utf-32-le"), np.uint32) for x in (text, vocabulary))
    nearest = np.searchsorted(known, codes).clip(max=len(known) - 1)
    classes = torch.from_numpy(np.where(known[nearest] == codes, nearest, PADDING_CLASS))
    tokens = torch.where(classes == PADDING_CLASS, UNKNOWN, classes + FIRST)
    inputs = torch.nn.functional.pad(tokens[:-1], (0, padding))
    targets = torch.nn.functional.pad(classes[1:], (0, padding), value=PADDING_CLASS)
    whole = len(inputs) // length * length
    inputs, targets = inputs[:whole].view(-1, length), targets[:whole].view(-1, length)
    is_scored = (targets != PADDING_CLASS).any(1)
    return Split(inputs[is_scored], targets[is_scored])


def _make_dataset(
    splits: Mapping[str, Split], vocabulary: str, encoding: Mapping[str, Any], texts: Mapping[str, str]
) -> Dataset:
    """Return a data set of windows. Raise OptionError if a split has no character that the vocabulary has."""
    for name, text in texts.items():
        if not set(text) & set(vocabulary):
            raise OptionError("path", f"{name} has no character of the training text")
    names = tuple(NAMES.get(character, character) for character in vocabulary)
    dataset = Dataset(splits["train"], splits["test"], len(names), names, encoding, _list_unknown(texts, vocabulary))
    return replace(dataset, validation=splits.get("validation"), tokens=FIRST + len(names), predicts_next=True)


def _list_unknown(texts: Mapping[str, str], vocabulary: str) -> tuple[str, ...]:
    """Return a notice for each text with characters that the vocabulary lacks."""
    notices = []
    for name, text in texts.items():
        new = sorted(set(text) - set(vocabulary))
        if new:
            count = f"{sum(map(text.count, new)):,} of {len(text):,} characters"
            effect = "as inputs they are one unknown character, and as targets they are not scored"
            notices.append(
                f"{name} has {count} that the training text lacks, {join_truncated(map(repr, new))}: {effect}"
            )
    return tuple(notices)
