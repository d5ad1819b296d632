"""dlopt export: files whose outputs are those of the run, and what is refused."""

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from helpers import BLOBS, read_tree
from safetensors import safe_open

from dlopt.cli import main
from dlopt.config.reopen.load_predictor import load_predictor
from dlopt.export import build
from dlopt.rundir.find import find_run

TRAIN = ("train", "-q", *BLOBS, "threads=1")
PARTS = ("normalization=batch", "preprocess=standardize", "regularization=dropout")


def export(capfd, *argv, code=0):
    """Return what a command prints: the output if it succeeds, which prints no error, else the error."""
    capfd.readouterr()
    assert main(["export", "--trust", *argv]) == code
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    if code:
        assert out == ""
        return err
    assert [line for line in err.splitlines() if not line.startswith("last is ")] == []
    return out


def write_table(folder):
    """Write a table whose numbers are far from zero, and with missing cells."""
    rng = np.random.default_rng(0)
    rows = [
        f"{'' if i % 9 == 0 else round(rng.normal(50, 9), 2)},{'red' if i % 3 else 'blue'},2024-0{1 + i % 9}-11,{1900 + 3 * i}"
        for i in range(60)
    ]
    (folder / "my.csv").write_text("\n".join(["size,colour,sold,price", *rows]))


def read_predictions(name="out.csv"):
    """Return the predictions that `dlopt evaluate` writes for all examples."""
    assert main(["evaluate", "-q", "--trust", "--split", "all", "--predictions", name]) == 0
    with Path(name).open() as stream:
        return list(csv.DictReader(stream))


def test_an_onnx_file_of_a_table_predicts_in_the_units_of_the_target(here, capfd):
    write_table(here)
    table = (
        "data=table",
        "data.path=my.csv",
        "data.target=price",
        "data.missing=fill",
        "data.dates=[sold]",
        "loss=mse",
    )
    assert main(["train", "-q", *BLOBS[2:], "threads=1", *table, *PARTS]) == 0
    predictions = [float(row["predicted"]) for row in read_predictions()]
    out = export(capfd, "--to", "onnx", "--out", "new/model.onnx")
    assert {*here.joinpath("new").iterdir()} == {here / "new" / "model.onnx"}
    session = onnxruntime.InferenceSession("new/model.onnx")
    predictor, _ = load_predictor(find_run(), trust=True)
    inputs = torch.cat([split.gather()[0] for split in predictor.splits["all"]])
    (outputs,) = session.run(None, {"inputs": inputs.numpy()})
    np.testing.assert_allclose(outputs[:, 0], predictions, rtol=1e-5)
    assert min(predictions) > 1000
    about = session.get_modelmeta().custom_metadata_map
    assert [session.get_inputs()[0].shape, session.get_outputs()[0].shape] == [["batch", 8], ["batch", 1]]
    assert json.loads(about["inputs"])["shape"] == ["batch", 8]
    columns = json.loads(about["columns"])
    assert [(column["column"], column["inputs"]) for column in columns] == [
        ("size", [0]),
        ("colour", [1, 2]),
        ("sold", [3, 4, 5, 6, 7]),
    ]
    assert columns[0]["fill"] == predictor.encoding["columns"]["size"]
    assert columns[1]["categories"] == ["blue", "red"]
    assert json.loads(about["names"]) == ["price"]
    assert about["checkpoint"] == "best"
    assert json.loads(about["metrics"])["test/loss"] == find_run().summary["test/loss"]
    content = Path("new/model.onnx").read_bytes()
    for private in (str(here), "my.csv", "site-packages", "dlopt/arch"):
        assert private.encode() not in content
    assert "numbers   price" in out
    assert "60 examples in onnxruntime" in out


def test_probabilities_are_those_of_evaluate(here, capfd):
    assert main([*TRAIN, *PARTS]) == 0
    rows = read_predictions()
    expected = np.array([[float(row[f"probability_{name}"]) for name in "012"] for row in rows])
    export(capfd, "--to", "torch_export", "--probabilities", "--out", "model.pt2")
    extra = dict.fromkeys(("names", "step", "config"), "")
    program = torch.export.load("model.pt2", extra_files=extra).module()
    predictor, _ = load_predictor(find_run(), trust=True)
    inputs = torch.cat([split.gather()[0] for split in predictor.splits["all"]])
    np.testing.assert_allclose(program(inputs).numpy(), expected, atol=2e-6)
    assert json.loads(extra["names"]) == ["0", "1", "2"]
    assert extra["step"] == str(predictor.step)
    assert list(json.loads(extra["config"])["preprocess"]) == ["standardize"]


def test_weights_in_a_safetensors_file_start_another_run(here, capfd):
    assert main([*TRAIN, *PARTS]) == 0
    run = find_run()
    export(capfd, "--to", "safetensors", "--out", "model.safetensors", "--checkpoint", "last")
    saved = run.load("last")
    with safe_open("model.safetensors", "pt") as file:
        tensors, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    for name, value in saved["model"].items():
        assert torch.equal(tensors[f"model/{name}"], value)
    assert torch.equal(tensors["preprocessing/standardize/mu"], saved["preprocessing"]["standardize"]["mu"])
    assert len(tensors) == len(saved["model"]) + 2
    assert about["checkpoint"] == "last"
    assert main([*TRAIN, *PARTS, "init=pretrained", "init.run=model.safetensors", "optimizer.lr=1e-30"]) == 0
    for name, value in find_run().load("last")["model"].items():
        assert "running" in name or torch.equal(value, saved["model"][name])


NETS = """
import torch
from torch import nn

class Odd(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)

class Bessel(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.first, self.odd, self.last = nn.Linear(inputs[0], 4), Odd(), nn.Linear(4, outputs)
    def forward(self, x):
        return self.last(self.odd(self.first(x)))

class Branch(Bessel):
    def forward(self, x):
        return self.last(self.first(x if self.last.bias.isfinite().all() else -x))

class Count(Bessel):
    def forward(self, x):
        return self.last(self.first(x) + x.new_zeros(len(x), 1))
"""


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("Bessel", ("layer odd (Odd) uses prims.bessel_j0.default, which ONNX lacks", "--to torch_export")),
        ("Branch", ("branches on values of tensors in exported_nets.py, line 18", "torch.where", "--to safetensors")),
        ("Count", ("the number of examples for a constant", "x.shape[0]", "--to safetensors")),
    ],
)
def test_a_network_that_onnx_cannot_hold_is_named_with_the_way_out(network, words, here, capfd):
    (here / "exported_nets.py").write_text(NETS)
    assert main([*TRAIN[:4], *TRAIN[6:], "arch=custom", f"arch._target_=exported_nets.{network}"]) == 0
    before = read_tree(here)
    err = export(capfd, "--to", "onnx", code=2)
    assert all(word in err for word in words)
    assert read_tree(here) == before
    other = "torch_export" if network == "Bessel" else "safetensors"
    export(capfd, "--to", other)


def test_wrong_arguments_are_refused_together(here, capfd, monkeypatch):
    assert main(TRAIN) == 0
    (here / "file").touch()
    before = read_tree(here)

    def refuse(*argv):
        err = export(capfd, *argv, code=2)
        assert read_tree(here) == before
        return err

    err = refuse("--to", "onnx", "--out", "model.pt2", "--opset", "11")
    assert "must end in .onnx for --to onnx" in err
    assert "--opset  must be from 18 to 23, got 11" in err
    assert "is a directory" in refuse("--to", "onnx", "--out", ".")
    weights = find_run().checkpoint("best")
    assert "lies in a run" in refuse("--to", "safetensors", "--out", str(weights))
    assert "--opset" in refuse("--to", "torch_export", "--opset", "20")
    assert "--probabilities" in refuse("--to", "safetensors", "--probabilities")
    assert "File exists" in refuse("--to", "safetensors", "--out", "file/model.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr("dlopt.export.onnx_file.LARGEST_FILE", 100)
        assert "onnx files hold 2 GiB, and the weights are 268 bytes" in refuse("--to", "onnx")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("dlopt.export.onnx_file.find_spec", lambda n: None if n == "onnxscript" else find_spec(n))
    assert "needs onnxscript: pip install 'dlopt[export]'" in refuse("--to", "onnx")
    assert main(["export", "-q", "--to", "safetensors"]) == 2
    assert "add --trust" in capfd.readouterr().err


def test_a_file_that_differs_is_not_written(here, capfd, monkeypatch):
    """The weights of the file differ by a millionth of a weight, then by a hundredth."""
    assert main(TRAIN) == 0
    make = build.SafetensorsFile
    for error, code in ((1e-7, 0), (1e-2, 1)):

        def make_wrong(module, steps, error=error):
            with torch.no_grad():
                module.network.output.weight.add_(error)
            return make(module, steps)

        monkeypatch.setattr(build, "SafetensorsFile", make_wrong)
        text = export(capfd, "--to", "safetensors", "--out", f"{code}/model.safetensors", code=code)
    assert "1/model.safetensors was not written: its outputs differ from the run's own by " in text
    assert "and 1e-05 is allowed" in text
    assert (here / "0" / "model.safetensors").exists()
    assert not (here / "1").exists()
    export(capfd, "--to", "safetensors", "--tolerance", "0.1", "--out", "1/model.safetensors")


def test_a_run_without_inputs_is_refused(here, capfd):
    assert main(["train", "-q", "data=none", "arch.function=beale", "optimizer=adam", "steps=2", "device=cpu"]) == 0
    assert "it has no inputs" in export(capfd, "--to", "onnx", code=2)


def test_other_data_are_compared_if_those_of_the_run_are_gone(here, capfd):
    write_table(here)
    table = ("data=table", "data.path=my.csv", "data.target=price", "data.missing=fill", "loss=mse")
    assert main(["train", "-q", *BLOBS[2:], *table, "precision=bfloat16"]) == 0
    (here / "my.csv").rename(here / "other.csv")
    assert "names other data to compare on" in export(capfd, "--to", "safetensors", code=2)
    assert main(["export", "--trust", "--to", "safetensors", "--data", "other.csv"]) == 0
    assert "warning: the run computes in bfloat16" in capfd.readouterr().err
