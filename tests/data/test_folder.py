"""Your own images in folders: what they become, the splits, the cache, and what is refused."""

import os
import re
import shlex
import shutil
import struct
import threading
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_refused, build_experiment, load_weights, make_option, train_runs, write_images
from PIL import ExifTags, Image

from dlopt.cli import main
from dlopt.data import _files, _image_cache, _images
from dlopt.errors import OptionError
from dlopt.storage.mapped_array import MappedArray

PLAIN = make_option("data", "folder", size=8)
RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (60, 90, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _files.cache.clear()


def load(folder, **keys):
    _files.cache.clear()
    return replace(PLAIN, path=str(folder), **keys).load()


def save(pixels, file, **keys):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, **keys)
    return file


def write_png_header(file, width, height):
    """Write a small file that claims to be an image of this size."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    )
    packed = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


# ------------------------------------------------------------------------------------------------ one image


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (64, 64)])
@pytest.mark.parametrize("size", [8, 16, 100])
def test_the_shorter_side_is_scaled_and_the_center_taken(tmp_path, shape, size):
    pixels = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
    whole = torch.from_numpy(pixels).permute(2, 0, 1)[None].double()
    sides = [side * size // min(shape) for side in shape]
    top, left = ((side - size) // 2 for side in sides)
    scaled = torch.nn.functional.interpolate(whole, size=sides, mode="bilinear", antialias=True)[0]
    expected = scaled[:, top : top + size, left : left + size]
    actual = _images.decode(save(pixels, tmp_path / "a.png"), size, 3)
    assert actual.dtype == np.uint8
    np.testing.assert_allclose(actual, expected, atol=1.5)


def test_an_image_of_the_right_size_keeps_its_pixels(tmp_path):
    file = save(COLORS[:, :60], tmp_path / "a.png")
    np.testing.assert_array_equal(_images.decode(file, 60, 3), COLORS[:, :60].transpose(2, 0, 1))


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size_to_nearly_the_same(tmp_path):
    row = np.linspace(0, 255, 800)
    smooth = np.stack([np.add.outer(row, row) / 2] * 3, -1).astype(np.uint8)
    file, whole = save(smooth, tmp_path / "a.jpg", quality=95), save(smooth, tmp_path / "a.png")
    with Image.open(file) as image:
        image.draft("RGB", (32, 32))
        assert image.size == (100, 100)
    np.testing.assert_allclose(_images.decode(file, 16, 3), _images.decode(whole, 16, 3), atol=3)


TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
"""What shows a stored image upright, by its EXIF orientation (EXIF 2.3, tag 274)."""


@pytest.mark.parametrize("orientation", TURNS)
def test_images_are_turned_as_exif_says(tmp_path, orientation):
    stored = COLORS[:, :60]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = save(stored, tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(_images.decode(file, 60, 3), TURNS[orientation](stored).transpose(2, 0, 1))


def make_transparent(color, alpha):
    return Image.new("RGBA", (8, 8), (*color, alpha))


def make_palette(transparent):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 0, 0, 0, 200])
    if transparent:
        image.info["transparency"] = 1
    return image


ODD = {
    "cmyk.jpg": (Image.new("RGB", (8, 8), (200, 30, 90)).convert("CMYK"), (200, 30, 90)),
    "cmyk.tif": (Image.new("CMYK", (8, 8), (55, 225, 165, 0)), (200, 30, 90)),
    "deep.png": (Image.fromarray(np.full((8, 8), 0x8080, np.uint16)), (128, 128, 128)),
    "deep.tif": (Image.fromarray(np.full((8, 8), 0xFFFF, np.uint16)), (255, 255, 255)),
    "bits.png": (Image.new("1", (8, 8), 1), (255, 255, 255)),
    "clear.png": (make_transparent((10, 20, 30), 0), (255, 255, 255)),
    "half.png": (make_transparent((0, 0, 0), 128), (127, 127, 127)),
    "opaque.webp": (make_transparent((10, 20, 30), 255), (10, 20, 30)),
    "grey.png": (Image.new("LA", (8, 8), (50, 255)), (50, 50, 50)),
    "palette.png": (make_palette(False), (0, 0, 200)),
    "hole.png": (make_palette(True), (255, 255, 255)),
    "still.gif": (make_palette(False), (0, 0, 200)),
    "plain.bmp": (Image.new("RGB", (8, 8), (1, 2, 3)), (1, 2, 3)),
    "plain.ppm": (Image.new("RGB", (8, 8), (1, 2, 3)), (1, 2, 3)),
    "a png.jpg": (None, (1, 2, 3)),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_images_become_what_they_show(tmp_path, name):
    image, color = ODD[name]
    if image is None:
        save(Image.new("RGB", (8, 8), color), tmp_path / name, format="PNG")
    else:
        save(image, tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    expected = np.broadcast_to(np.array(color)[:, None, None], (3, 8, 8))
    np.testing.assert_allclose(_images.decode(tmp_path / name, 8, 3), expected, atol=3)
    grey = np.full((1, 8, 8), np.dot(color, (0.299, 0.587, 0.114)))  # ITU-R 601
    np.testing.assert_allclose(_images.decode(tmp_path / name, 8, 1), grey, atol=3)


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert _images.decode(tmp_path / "a.gif", 8, 3)[:, 0, 0].tolist() == [255, 0, 0]


def cut(file):
    save(COLORS, file)
    file.write_bytes(file.read_bytes()[:2000])


BROKEN = {
    "empty.png": (lambda file: file.touch(), "it is empty"),
    "text.jpg": (lambda file: file.write_text("no image"), "it is not an image"),
    "cut.jpg": (cut, "truncated"),
    "cut.png": (cut, "truncated"),
    "bomb.png": (lambda file: write_png_header(file, 30_000, 30_000), "pixels"),
    "large.png": (lambda file: write_png_header(file, 12_000, 12_000), "12000 x 12000 pixels are more than 89,478,485"),
    "float.tif": (lambda file: save(np.ones((8, 8), np.float32), file), "floating-point"),
    "wide.tif": (lambda file: save(np.full((8, 8), 1 << 20, np.int32), file), "more than 16 bits"),
    "script.png": (lambda file: file.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "it is not an image"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BROKEN)
def test_broken_images_are_named_with_the_reason_or_skipped(tmp_path, name):
    folder = write_images(tmp_path / "photos")
    write, reason = BROKEN[name]
    write(folder / "bee" / name)
    with pytest.raises(ValueError, match=reason):
        _images.decode(folder / "bee" / name, 8, 3)
    act = replace(PLAIN, path=str(folder)).load
    assert_refused(act, "path", "1 of 121 images cannot be decoded", f"bee/{name}", reason, "data.broken=skip")
    data = load(folder, broken="skip")
    assert len(data.train) + len(data.test) == 120
    assert any("1 of 121" in notice and "left out" in notice for notice in data.notices)


# ------------------------------------------------------------------------------------------------ classes and splits


def read_pixels(folder, classes):
    """Return the pixels in the order of the files, and their classes."""
    files = [(file, i) for i, name in enumerate(classes) for file in sorted((folder / name).iterdir())]
    return np.stack([np.asarray(Image.open(f)) for f, _ in files])[:, None], np.array([i for _, i in files])


def test_a_run_on_images_is_the_run_on_their_pixels_in_an_array_bit_for_bit(tmp_path):
    x, y = read_pixels(write_images(tmp_path / "photos"), ("ant", "bee", "cat"))
    np.savez(tmp_path / "my.npz", x=x, y=y)
    common = ("epochs=2", "batch_size=13", "arch=cnn", "preprocess=[per_channel]", "augmentation=[flip_horizontal]")
    sources = (
        ["data=folder", f"data.path={tmp_path / 'photos'}", "data.size=8"],
        ["data=arrays", f"data.path={tmp_path / 'my.npz'}"],
    )
    results = [train_runs(tmp_path / f"run{i}", build_experiment(*common, *own)) for i, own in enumerate(sources)]
    (weights, metrics), expected = (
        (load_weights(run), {name: summary[name] for name in summary if name.endswith(("loss", "accuracy"))})
        for (summary,), (run,) in results
    )
    assert torch.equal(weights, expected[0])
    assert metrics == expected[1]
    assert "test/loss" in metrics


def test_classes_are_folders_by_name_and_inputs_lie_in_0_to_1(tmp_path):
    folder = write_images(tmp_path / "photos", ("dog", "Zebra", "ape"), each=5)
    data = load(folder)
    assert data.names == ("Zebra", "ape", "dog")
    assert (data.shape, data.outputs, len(data.train), len(data.test)) == ((1, 8, 8), 3, 12, 3)
    x, _ = read_pixels(folder, data.names)
    actual = torch.cat([data.train.gather()[0], data.test.gather()[0]])
    order = torch.cat([data.train.targets, data.test.targets]).argsort(stable=True)
    assert sorted(actual[order].flatten(1).tolist()) == sorted((torch.from_numpy(x).float() / 255).flatten(1).tolist())
    assert data.test.targets.bincount().tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Training", "validation", "TEST"), ("train", None, "test")]
)
def test_folders_named_as_splits_are_the_splits(tmp_path, names):
    _, val, test = (
        name and write_images(tmp_path / "photos" / name, ("a", "b"), 4 + i) for i, name in enumerate(names)
    )
    data = load(tmp_path / "photos")
    assert (len(data.train), len(data.test)) == (8, 12)
    assert (None if data.validation is None else len(data.validation)) == (val and 10)
    assert torch.equal(data.test.gather()[0], torch.from_numpy(read_pixels(test, ("a", "b"))[0]).float() / 255)


@pytest.mark.parametrize(
    ("channels", "color", "expected"), [("auto", False, 1), ("auto", True, 3), (1, True, 1), (3, False, 3)]
)
def test_channels_are_those_of_the_images_or_chosen(tmp_path, channels, color, expected):
    folder = write_images(tmp_path / "photos", each=5)
    if color:
        save(COLORS, folder / "cat" / "last.png")
    assert load(folder, channels=channels).shape == (expected, 8, 8)


@pytest.mark.parametrize(
    ("image", "expected"),
    [(Image.new("P", (8, 8), 1), False), (make_palette(False), True), (Image.new("LA", (8, 8)), False),
     (Image.fromarray(np.zeros((8, 8), np.uint16)), False), (Image.new("1", (8, 8)), False), (Image.new("RGB", (8, 8)), True)],
)  # fmt: skip
def test_colors_are_seen_in_the_header(tmp_path, image, expected):
    if image.mode == "P" and not expected:
        image.putpalette([i for i in range(256) for _ in range(3)])
    assert _images.has_color(save(image, tmp_path / "a.png")) == expected


def test_hidden_files_are_ignored_and_others_counted(tmp_path):
    folder = write_images(tmp_path / "photos", each=5)
    for name in (".DS_Store", ".hidden/a.png", "ant/.b.png", "ant/Thumbs.db", "__MACOSX/ant/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert load(folder).notices == ()
    (folder / "ant" / "readme.txt").touch()
    (folder / "loose.png").touch()
    os.mkfifo(folder / "bee" / "pipe.png")
    (folder / "bee" / "link.png").symlink_to("/nowhere")
    (folder / "none").mkdir()
    shutil.copytree(folder / "ant", folder / "ant" / "more")
    data = load(folder)
    assert len(data.train) + len(data.test) == 20
    empty, others = data.notices
    assert "folders without images are no classes: none" in empty
    assert "5 files" in others
    for name in ("ant/readme.txt", "ant/more/readme.txt", "bee/link.png", "bee/pipe.png", "loose.png"):
        assert name in others


def test_a_class_without_an_image_in_a_split_is_noticed(tmp_path):
    folder = write_images(tmp_path / "photos", ("a", "b"))
    write_images(folder, ("rare",), each=1)
    data = load(folder)
    assert data.notices == ("the test split has no image of rare",)
    assert data.train.targets.bincount().tolist() == [32, 32, 1]


def refuse_layout(make, *words, **keys):
    def build(tmp_path):
        make(tmp_path / "photos")
        assert_refused(lambda: load(tmp_path / "photos", **keys), "path", *words)

    return build


def write_splits(train, test):
    def make(folder):
        write_images(folder / "train", train, 2)
        write_images(folder / "test", test, 2)
        (folder / "test").mkdir(exist_ok=True)

    return make


LAYOUTS = {
    "nothing": refuse_layout(lambda f: f.mkdir(), "photos has no images"),
    "a file": refuse_layout(lambda f: f.write_text(""), "is a file; name a folder"),
    "no folder": refuse_layout(lambda f: (f.parent / "photo").mkdir(), "there is no folder", "did you mean photo?"),
    "no classes": refuse_layout(lambda f: [write_images(f, ("a",)), (f / "a" / "000.png").rename(f / "1.png"), shutil.rmtree(f / "a")], "has images but no folders of classes"),
    "one class": refuse_layout(lambda f: write_images(f, ("a",)), "of one class, a"),
    "splits without classes": refuse_layout(lambda f: write_images(f, ("train", "test")), "has images but no folders of classes"),
    "a new class in the test": refuse_layout(write_splits("ab", "abc"), "test/c/000.png is of an unknown class", "training images are of a, b"),
    "an empty test": refuse_layout(write_splits("ab", ""), "the folder of the test split", "has no images"),
    "two trainings": refuse_layout(lambda f: [write_images(f / n, "ab", 1) for n in ("train", "Training")], "two folders of the train split"),
    "only broken ones of a class": refuse_layout(lambda f: [write_images(f, "ab"), (f / "c").mkdir(), (f / "c" / "1.png").touch()], "all training images of c are broken", broken="skip"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_wrong_layout_is_refused(tmp_path, name):
    LAYOUTS[name](tmp_path)


# ------------------------------------------------------------------------------------------------ the cache


@pytest.fixture
def decodings(monkeypatch):
    """Return the names of the files that are decoded, as they are."""
    names, decode = [], _images.decode
    monkeypatch.setattr(_images, "decode", lambda file, *more: names.append(file.name) or decode(file, *more))
    return names


def list_cache(tmp_path):
    return sorted(file.name for file in (tmp_path / "cache" / "dlopt" / "images").iterdir() if file.suffix != ".lock")


def test_images_are_decoded_once_and_again_after_a_change(tmp_path, decodings):
    folder = write_images(tmp_path / "photos", each=5)
    for _ in range(2):
        load(folder)
        assert len(decodings) == 15
    assert isinstance(load(folder).train.inputs.source, MappedArray)
    before = (folder / "ant" / "000.png").stat()
    for count, change in enumerate(
        (
            lambda: os.utime(folder / "ant" / "000.png", ns=(before.st_atime_ns, before.st_mtime_ns + 1)),
            lambda: save(255 * np.eye(8, dtype=np.uint8), folder / "ant" / "000.png"),
            lambda: (folder / "ant" / "000.png").rename(folder / "ant" / "100.png"),
            (folder / "bee" / "001.png").unlink,
        ),
        2,
    ):
        change()
        load(folder)
        assert len(decodings) == 15 * count - (count == 5)
    assert len(list_cache(tmp_path)) == 1  # what is outdated is removed
    load(folder, size=4)
    load(folder, channels=3)
    assert len(list_cache(tmp_path)) == 3


def test_a_damaged_cache_is_made_again(tmp_path, decodings):
    folder = write_images(tmp_path / "photos", each=5)
    expected = load(folder).train.gather()[0]
    for name, size in (("images.npy", 500), ("images.npy", 3), ("index.json", 20), ("index.json", 0)):
        os.truncate(next((tmp_path / "cache").rglob(name)), size)
        with pytest.warns(UserWarning, match="is damaged and is made again"):
            assert torch.equal(load(folder).train.gather()[0], expected)
    assert len(decodings) == 75


def test_an_interrupted_build_leaves_nothing_that_is_used(tmp_path, monkeypatch):
    folder, decode = write_images(tmp_path / "photos", each=5), _images.decode

    def interrupt(file, *more):
        if file.parent.name == "cat":
            raise KeyboardInterrupt
        return decode(file, *more)

    monkeypatch.setattr(_images, "decode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load(folder)
    assert list_cache(tmp_path) == []
    monkeypatch.setattr(_images, "decode", decode)
    load(folder)
    (name,) = list_cache(tmp_path)
    left = tmp_path / "cache" / "dlopt" / "images" / f".{name}.123.part"  # as by a killed process
    shutil.copytree(left.parent / name, left)
    shutil.rmtree(left.parent / name)
    (left / "images.npy").write_bytes(b"")
    load(folder)
    assert list_cache(tmp_path) == [name]


def test_two_processes_decode_once(tmp_path, monkeypatch):
    folder, names, decode = write_images(tmp_path / "photos", each=5), [], _images.decode
    both = threading.Barrier(2)

    def wait(file, *more):
        names.append(file.name)
        if len(names) == 1:
            both.wait(60)  # until the other one is about to ask for the cache
        return decode(file, *more)

    monkeypatch.setattr(_images, "decode", wait)
    other = threading.Thread(target=lambda: both.wait(60) or replace(PLAIN, path=str(folder)).load())
    other.start()
    first = replace(PLAIN, path=str(folder)).load()
    other.join(60)
    assert len(names) == 15
    assert torch.equal(load(folder).train.gather()[0], first.train.gather()[0])


def test_a_full_disk_and_an_unwritable_cache_are_refused(tmp_path, monkeypatch):
    folder = write_images(tmp_path / "photos", each=5)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 5, 5))
        assert_refused(lambda: load(folder), "size", "need 0 MB", "XDG_CACHE_HOME")
    with monkeypatch.context() as patch:

        def fail(*_):
            raise OSError(28, "No space left on device")

        patch.setattr(_image_cache, "_sync", fail)
        assert_refused(lambda: load(folder), "path", "No space left on device", "XDG_CACHE_HOME")
    assert list_cache(tmp_path) == []
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").touch()
    assert_refused(lambda: load(folder), "path", "cannot be written", "XDG_CACHE_HOME")


# ------------------------------------------------------------------------------------------------ evaluation


@pytest.fixture
def image_run(here):
    """Train a run on images of three classes, in color, of another size than the files."""
    folder = write_images(here / "photos")
    assert (
        main(
            [
                "train",
                "-q",
                "data=folder",
                f"data.path={folder}",
                "data.size=6",
                "data.channels=3",
                "epochs=1",
                "batch_size=20",
                "threads=1",
                "device=cpu",
            ]
        )
        == 0
    )
    return here


def evaluate(*words):
    return main(["evaluate", "last", *words])


def test_other_images_are_read_as_in_training(image_run, capsys):
    write_images(image_run / "new", ("bee", "cat"), each=3)
    assert evaluate() == 0
    assert "test split, 24 examples" in capsys.readouterr().out
    assert evaluate("--data", "new", "--predictions", "p.csv") == 0
    assert "all examples of --data new, 6 examples" in capsys.readouterr().out
    rows = [line.split(",") for line in (image_run / "p.csv").read_text().splitlines()]
    assert rows[0] == ["file", "class", "predicted", "probability_ant", "probability_bee", "probability_cat"]
    assert [row[:2] for row in rows[1:]] == [[f"{c}/{i:03}.png", c] for c in ("bee", "cat") for i in range(3)]

    write_images(image_run / "new", ("wasp",), each=1)
    assert evaluate("--data", "new") == 2
    assert "wasp/000.png is of an unknown class" in capsys.readouterr().err


def test_images_without_classes_and_single_ones_are_predicted(image_run, capsys):
    images = write_images(image_run / "new", ("x",), each=3) / "x"
    (images / "broken.png").touch()
    assert evaluate("--data", "new/x", "--predictions", "p.csv") == 2
    assert evaluate("--data", "new/x", "data.broken=skip", "--predictions", "p.csv") == 0
    rows = [line.split(",") for line in (image_run / "p.csv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["file", "000.png", "001.png", "002.png", "broken.png"]
    assert rows[-1][1:] == [""] * 4  # a row without an example
    assert evaluate("--data", "new/x/000.png", "--predictions", "q.csv") == 0
    assert (image_run / "q.csv").read_text().splitlines()[1].split(",") == rows[1]
    assert evaluate("--data", "new/x/000.png") == 2
    assert "has no targets" in capsys.readouterr().err


def test_changed_images_are_noticed_and_copied_ones_are_not(image_run, capsys):
    shutil.copytree("photos", "copy")
    shutil.rmtree("photos")
    shutil.copytree("copy", "photos", copy_function=shutil.copyfile)
    assert evaluate() == 0
    (image_run / "photos" / "ant" / "000.png").unlink()
    capsys.readouterr()
    assert evaluate() == 2
    assert "the file has changed since the run read it" in capsys.readouterr().err


def test_a_folder_without_any_image_is_refused(tmp_path):
    (tmp_path / "none").mkdir()
    assert_refused(
        lambda: replace(PLAIN, path=str(tmp_path / "none")).load_like({"classes": ["a", "b"]}),
        "path",
        "there are no images",
    )
    with pytest.raises(OptionError, match="there is no folder"):
        replace(PLAIN, path=str(tmp_path / "nowhere")).load_like({})


@pytest.mark.long
def test_the_page_about_images_works_as_it_is_printed(here):
    text = (Path(__file__).parents[2] / "docs" / "images.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(code, "images.md", "exec"), {})
    assert len(list(here.glob("digits/*/*.png"))) == 1797
    (line,) = re.findall(r"^dlopt (train .*data.path=digits.*?) +#", text, re.MULTILINE)
    small = ["-q", "epochs=1", "data.train_size=100", "threads=1", "device=cpu"]
    assert main([*shlex.split(line), *small]) == 0
    assert evaluate("--data", "digits/3", "--predictions", "out.csv") == 0
    assert len((here / "out.csv").read_text().splitlines()) == 184
