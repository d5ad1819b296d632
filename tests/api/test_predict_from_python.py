"""dlopt.predict: the table that `dlopt predict` writes."""

from pathlib import Path

import polars as pl
import pytest

import dlopt
from dlopt.cli import main

TABLE = ("data=table", "data.path=t.csv", "data.target=y", "arch=mlp", "arch.widths=[4]", "batch_size=8", "device=cpu")


def test_the_frame_is_the_file_of_the_command(here):
    """Of one run, and of two as an ensemble; what cannot be read names the argument."""
    rows = [f"{i},{'ab'[i % 2]},{['cat', 'dog'][i % 2]}" for i in range(60)]
    Path("t.csv").write_text("\n".join(["n,kind,y", *rows, ""]))
    Path("new.csv").write_text("id,n,kind\nA,1,a\nB,2,b\nC,3,a\n")
    for seed in (0, 1):
        dlopt.train([*TABLE, "epochs=2", f"seed={seed}"], directory=f"run{seed}", progress=False)
    for names in (["run0"], ["run0", "run1"]):
        assert main(["predict", *names, "new.csv", "--out", "out.parquet", "-q"]) == 0
        frame = dlopt.predict("new.csv", names)
        assert frame.equals(pl.read_parquet("out.parquet"))
    assert frame["id"].to_list() == ["A", "B", "C"] and frame.schema["sd_cat"] == pl.Float64
    assert dlopt.predict("new.csv", "run0", top=1).columns[3:] == ["prediction", "probability"]
    with pytest.raises(dlopt.ConfigError, match=r"nothing was predicted:\n  data +there is no file"):
        dlopt.predict("none.csv", "run0")
    with pytest.raises(dlopt.ConfigError, match="top  must be at most 2, the number of classes, got 3"):
        dlopt.predict("new.csv", "run0", top=3)
    with pytest.raises(dlopt.RunError, match="no runs in outputs"):
        dlopt.predict("new.csv", "none")
