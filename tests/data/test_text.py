"""Labelled texts: files, tokenizers trained on the training split, and texts that cannot be used."""

import csv
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import assert_refused, build_experiment, make_option, make_reviews
from tokenizers import Tokenizer

from dlopt.cli import main
from dlopt.data import _tokenizing

KINDS = ["words", "wordpiece", "bpe", "characters"]
ARCH = ["arch.width=6", "batch_size=16", "threads=1", "device=cpu"]
SENTENCES = [text for text, _ in make_reviews(80)]


@pytest.fixture
def write(here):
    """Return a function that writes a CSV file and returns the data option that reads it."""

    def write(rows, name="my.csv", header=("text", "label"), written="utf-8", **keys):
        with Path(name).open("w", newline="", encoding=written) as file:
            csv.writer(file).writerows([header, *rows])
        return make_option("data", "text", **{"path": name, **keys})

    return write


def write_folder(root, texts, encoding="utf-8"):
    """Write texts by their path below a folder."""
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding=encoding)


def encode(option, train=None):
    """Return the encoding of a data set, and its training inputs and test inputs as tokens."""
    data = option.load()
    encoding = option.fit(train or data.train, data.encoding)
    return encoding, *(option.transform_inputs(split.inputs, encoding) for split in (data.train, data.test))


# ------------------------------------------------------------------------------------------------ tokenizers


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_tokenizer_is_the_same_each_time(kind):
    """The library's trainer of pieces numbers them in the order of a hash that differs between calls."""
    assert len({_tokenizing.train_tokenizer(SENTENCES, kind, 60, lowercase=True) for _ in range(8)}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_decode_to_the_text(kind):
    tokenizer = _tokenizing.train_tokenizer(SENTENCES, kind, 60 if kind != "words" else 1000, lowercase=False)
    pieces = {i: piece for piece, i in Tokenizer.from_str(tokenizer).get_vocab().items()}
    for text, tokens in zip(SENTENCES, _tokenizing.tokenize(tokenizer, SENTENCES), strict=True):
        joined = "".join(pieces[token].removeprefix("##") for token in tokens)
        assert joined == (text if kind == "characters" else text.replace(" ", ""))


def test_words_are_the_most_frequent_ones():
    tokenizer = _tokenizing.train_tokenizer(SENTENCES, "words", 10, lowercase=True)
    counts = Counter(word for text in SENTENCES for word in re.findall(r"\w+|[^\w\s]+", text.lower()))
    expected = [word for word, _ in sorted(counts.items(), key=lambda x: (-x[1], x[0]))][:8]
    vocabulary = Tokenizer.from_str(tokenizer).get_vocab()
    assert sorted(vocabulary, key=vocabulary.get) == ["[PAD]", "[UNK]", *expected]


def test_byte_pairs_are_those_of_a_slow_twin():
    """Sennrich's algorithm: merge the most frequent pair; of equally frequent ones, the earliest tokens."""
    words = Counter(word for text in SENTENCES for word in text.split())
    split = {word: tuple(word) for word in words}
    vocabulary = ["[PAD]", "[UNK]", *sorted({c for word in words for c in word})]
    for _ in range(20):
        pairs: Counter = Counter()
        for word, pieces in split.items():
            for pair in zip(pieces, pieces[1:], strict=False):
                pairs[pair] += words[word]
        best = min(pairs, key=lambda p: (-pairs[p], vocabulary.index(p[0]), vocabulary.index(p[1])))
        vocabulary.append("".join(best))
        for word, pieces in split.items():
            merged, i = [], 0
            while i < len(pieces):
                step = 2 if pieces[i : i + 2] == best else 1
                merged.append("".join(pieces[i : i + step]))
                i += step
            split[word] = tuple(merged)
    tokenizer = Tokenizer.from_str(_tokenizing.train_tokenizer(SENTENCES, "bpe", len(vocabulary), lowercase=True))
    trained = tokenizer.get_vocab()
    assert sorted(trained, key=trained.get) == vocabulary
    for word in words:
        assert tuple(tokenizer.encode(word).tokens) == split[word]


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_and_special_texts_have_tokens_but_no_padding(kind):
    tokenizer = _tokenizing.train_tokenizer(SENTENCES, kind, 60, lowercase=True)
    for text in ("漢字", "[PAD]", "[UNK]", "##a", "\x01", " ", "🙂🙂"):
        (tokens,) = _tokenizing.tokenize(tokenizer, [text])
        assert tokens
        assert 0 not in tokens
        assert max(tokens) < _tokenizing.count_tokens(tokenizer)


def test_capital_letters_count_only_if_asked_for():
    for lowercase, same in ((True, True), (False, False)):
        tokenizer = _tokenizing.train_tokenizer(["Good good GOOD"], "words", 10, lowercase=lowercase)
        one, two = _tokenizing.tokenize(tokenizer, ["Good", "good"])
        assert (one == two) is same


# ------------------------------------------------------------------------------------------------ data sets


def test_texts_are_cut_and_padded_to_one_length(write):
    option = write(make_reviews(100), length=5)
    encoding, train, _ = encode(option)
    texts = [text for text, _ in make_reviews(100)]
    assert train.shape == (80, 5)
    lengths = sorted(min(5, len(text.split())) for text in texts)
    both = torch.cat([train, encode(option)[2]])
    assert sorted((both > 0).sum(1).tolist()) == lengths
    assert encoding["length"] == 5
    (notice,) = encoding["notices"]
    assert re.search(r"of 80 texts of the training split have more than 5 tokens, up to 10; their ends", notice)
    longest = max(len(text.split()) for text in texts)
    assert encode(replace(option, length=500))[0]["length"] == longest  # no longer than needed


def test_the_tokenizer_knows_only_the_training_rows(write):
    rows = [*make_reviews(60), *((f"rare{i} words", "yes") for i in range(20))]
    option = write(rows)
    data = option.load()
    texts = ["".join(map(chr, row[row > 0].tolist())) for row in data.train.inputs]
    rows = torch.tensor([i for i, text in enumerate(texts) if "rare" not in text])
    encoding = option.fit(replace(data.train, rows=rows), data.encoding)
    vocabulary = Tokenizer.from_str(encoding["tokenizer"]).get_vocab()
    assert set(vocabulary) == {"[PAD]", "[UNK]", *(word for i in rows for word in texts[i].split())}
    tokens = option.transform_inputs(data.train.inputs, encoding)
    first = next(i for i, text in enumerate(texts) if "rare" in text)
    assert tokens[first, 0] == 1


def test_folders_and_tables_of_the_same_texts_are_equal(write, here):
    reviews = make_reviews(60)
    write_folder(here / "all", {f"{label}/{i:03}.txt": f"\n{text}\n" for i, (text, label) in enumerate(reviews)})
    table = write(sorted(reviews, key=lambda review: review[1]))
    folder = replace(table, path="all")
    one, two = folder.load(), table.load()
    assert one.names == two.names == ("no", "yes")
    assert torch.equal(one.train.inputs, two.train.inputs)
    assert torch.equal(one.test.targets, two.test.targets)


def test_splits_of_their_own_are_encoded_like_the_training_texts(write, here):
    write_folder(here / "test", {f"{label}/{i}.txt": text for i, (text, label) in enumerate(make_reviews(20, 1))})
    write(make_reviews(10, 2), "val.csv")
    option = write(make_reviews(40), test_path="test", validation_path="val.csv")
    data = option.load()
    assert [len(split) for split in (data.train, data.validation, data.test)] == [40, 10, 20]
    assert data.validation.targets.tolist() == [0, 1] * 5
    assert data.test.inputs.shape[1] == data.train.inputs.shape[1]


def test_cut_characters_are_left_out(write):
    """Of a text, 16 bytes are kept for each token; they may end within a character."""
    option = write([("x" + "é" * 30, "a"), ("é" * 31, "b")] * 10, length=1, tokenizer="characters")
    encoding, train, _ = encode(option)
    assert set(Tokenizer.from_str(encoding["tokenizer"]).get_vocab()) == {"[PAD]", "[UNK]", "x", "é"}
    assert train.shape[1] == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_understood(write, encoding):
    plain = write(make_reviews(40)).load()
    assert torch.equal(write(make_reviews(40), written=encoding).load().train.inputs, plain.train.inputs)


REVIEWS = make_reviews(40)
REFUSED = {
    "an empty text": ([*REVIEWS, (" ", "yes"), ("", "no")], {}, "path", ["empty text in line 42, and 1 other"]),
    "a missing label": ([*REVIEWS, ("fine", "")], {}, "target", ["label is missing in line 42"]),
    "no labels at all": ([(text, "") for text, _ in REVIEWS], {}, "target", ["has no labels in a column label"]),
    "an unknown column of labels": (REVIEWS, {"target": "lable"}, "target", ["did you mean label?"]),
    "an unknown column of texts": (REVIEWS, {"text": "review"}, "text", ["no column 'review'", "text, label"]),
    "one class": ([(text, "yes") for text, _ in REVIEWS], {}, "target", ["one class, yes"]),
    "a class with one text": ([*REVIEWS, ("well", "perhaps")], {}, "target", ["one text of perhaps", "add texts or leave"]),
    "labels that are texts": ([(a, f"{b}{i}") for i, (a, b) in enumerate(REVIEWS)], {}, "target", ["40 different values in 40 texts"]),
    "ragged rows": ([*REVIEWS, ("fine", "yes", "x")], {}, "path", ["line 42 has 3 cells for 2 columns"]),
    "no rows": ([], {}, "path", ["has a first line but no rows"]),
    "no file": (REVIEWS, {"path": "no.csv"}, "path", ["no file no.csv", "did you mean my.csv?"]),
    "no path": (REVIEWS, {"path": None}, "path", ["name the file: data.path="]),
    "a wrong encoding": (REVIEWS, {"encoding": "utf-99"}, "encoding", ["utf-99"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_tables_of_texts_that_cannot_be_used_are_refused(name, write):
    rows, keys, key, words = REFUSED[name]
    assert_refused(write(rows, **keys).load, key, *words)


def test_encodings_of_texts_are_named(write):
    assert_refused(
        write([("Köln", "a")] * 9, written="latin-1").load, "path", "line 2 has the byte 0xf6", "data.encoding=latin-1"
    )
    assert_refused(write([("good", "a")] * 9, written="utf-16-le").load, "path", "data.encoding=utf-16-le")


FOLDERS = {
    "empty": ({}, {}, "path", ["has no folder with .txt files"]),
    "other files": ({"a/1.md": "x"}, {}, "path", ["has no folder with .txt files", "there is a"]),
    "splits": ({"train/a/1.txt": "x", "test/b/1.txt": "y"}, {}, "path", ["name one of its folders, such as all/test"]),
    "texts next to classes": ({"a/1.txt": "x", "2.txt": "y"}, {}, "path", ["2.txt lies next to the folders of the classes"]),
    "no classes": ({"1.txt": "x", "2.txt": "y"}, {}, "target", ["all has no folder for each class"]),
    "an empty text": ({"a/1.txt": "x", "a/2.txt": "\n", "b/3.txt": "y", "b/4.txt": "y"}, {}, "path", ["empty text in a/2.txt"]),
    "zeros": ({"a/1.txt": "x", "b/2.txt": "\0\0\0"}, {}, "path", ["2.txt has a zero byte", "does not look like a text"]),
    "one class": ({"a/1.txt": "x", "a/2.txt": "y"}, {}, "target", ["one class, a"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_of_texts_that_cannot_be_used_are_refused(name, here):
    texts, keys, key, words = FOLDERS[name]
    (here / "all").mkdir()
    write_folder(here / "all", texts)
    assert_refused(make_option("data", "text", path="all", **keys).load, key, *words)


def test_labels_that_the_training_texts_lack_are_refused(write):
    write([("well", "perhaps")], "test.csv")
    assert_refused(write(REVIEWS, test_path="test.csv").load, "test_path", "test.csv has the labels perhaps", "no, yes")


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_of_one_is_refused(kind, write):
    option = write([("a", "yes"), ("a", "no")] * 20, tokenizer=kind)
    assert_refused(lambda: encode(option), "text", "repeat one", "nothing can be learned")


# ------------------------------------------------------------------------------------------------ runs


def test_a_text_classifier_learns_and_predicts_other_texts(write, here, capsys):
    write(make_reviews(300))
    words = ["data=text", "data.path=my.csv", *ARCH, "arch.width=8", "epochs=12", "optimizer.lr=0.03", "-q"]
    assert main(["train", *words]) == 0
    write([(7, "good music, zyx"), (8, "a DULL film " * 30)], "new.csv", header=("id", "text"))
    capsys.readouterr()
    assert main(["evaluate", "last", "--data", "new.csv", "--predictions", "out.csv"]) == 0
    printed = capsys.readouterr()
    assert "2 of 14 tokens of new.csv are unknown" in printed.err  # the comma and zyx; 10 are kept of the second text
    assert "1 of 2 texts of new.csv have more than 10 tokens, up to 90" in printed.err
    with Path("out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["predicted"]) for row in rows] == [("7", "yes"), ("8", "no")]
    write([("good", "yes"), ("dull", "no"), ("bad", "no")], "labelled.csv")
    assert main(["evaluate", "last", "--data", "labelled.csv"]) == 0
    assert "accuracy 1.0000" in capsys.readouterr().out
    write([("good", "perhaps")], "labelled.csv")
    assert main(["evaluate", "last", "--data", "labelled.csv"]) == 2
    assert "unknown classes perhaps; the run was trained on no, yes" in capsys.readouterr().err
    Path("new.csv").write_text('text\n"good"\n\n""\n"dull"\n')  # as csv.writer and pandas write an empty cell
    assert main(["evaluate", "last", "--data", "new.csv", "--predictions", "out.csv"]) == 2
    assert "empty text in line 4" in capsys.readouterr().err
    assert main(["show", "last"]) == 0


def test_folds_train_tokenizers_of_their_own(write):
    write([*make_reviews(40), *((f"rare{i} words", "no") for i in range(40))])
    experiments = [
        build_experiment(
            "data=text", "data.path=my.csv", *ARCH, "validation.scheme=kfold", "validation.k=2", f"validation.fold={i}"
        )
        for i in range(2)
    ]
    one, two = (set(Tokenizer.from_str(experiment.encoding["tokenizer"]).get_vocab()) for experiment in experiments)
    rare = [{word for word in words if word.startswith("rare")} for words in (one, two)]
    assert rare[0]
    assert rare[1]
    assert not rare[0] & rare[1]


def test_no_run_directory_remains_after_a_refusal(write, here, capsys):
    write([("a", "yes"), ("a", "no")] * 20)
    for more in (
        ["data.path=no.csv"],
        ["data.path=my.csv"],
        ["data.path=my.csv", "arch=mlp"],
        ["data.path=my.csv", "preprocess=standardize"],
    ):
        assert main(["train", "data=text", *more]) == 2
    assert not (here / "outputs").exists()
    assert "Traceback" not in capsys.readouterr().err
