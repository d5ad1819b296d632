"""dlopt in a notebook: the progress of a run in a cell, and docs/notebook.ipynb as it is stored."""

import sys
import warnings
from types import SimpleNamespace

import nbformat
import pytest
from helpers import BLOBS
from notebook import NOTEBOOK, execute

import dlopt
from dlopt.api import progress


class Cell:
    """The output of a cell: the content that is displayed there, and each that replaces it."""

    def __init__(self):
        self.shown = []

    def display(self, content, *, raw, display_id):
        assert raw and display_id
        self.shown.append(content)
        return self

    def update(self, content, *, raw):
        assert raw
        self.shown.append(content)


def test_a_bar_is_replaced_by_the_notices_and_the_result(here, monkeypatch, capsys):
    cell = Cell()
    monkeypatch.setattr(progress, "find_shell", lambda: SimpleNamespace(kernel=None))
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 1e-4)
    monkeypatch.setitem(sys.modules, "IPython.display", cell)
    run = dlopt.train([*BLOBS, "data._target_=mine.Regression"], directory="<b>")
    dlopt.train(BLOBS, progress=False)
    assert capsys.readouterr() == ("", "")
    bars = [content for content in cell.shown if "<progress value" in content["text/html"]]
    assert len(bars) > 2 and 'max="9"' in bars[-1]["text/html"]
    last = cell.shown[-1]
    assert last["text/plain"].splitlines()[0] == f"note: {run.notices[0]}"
    assert last["text/plain"].splitlines()[1].startswith("done: 9 steps") and "in &lt;b&gt;<" in last["text/html"]


def run_cell(client, code, act=lambda message: None):
    """Execute code in a kernel. Return the messages that belong to its cell: (type, content)."""
    cell = client.execute(code)
    messages = []
    while True:
        message = client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") == cell:
            messages.append((message["msg_type"], message["content"]))
            act(message)
            if message["content"].get("execution_state") == "idle":
                return messages


@pytest.mark.long
def test_a_run_in_a_kernel_is_interrupted_and_resumes(here):
    """The bar belongs to its cell. The stop button saves the run and ends the cell; a figure is shown as a picture."""

    def stop(message):
        if "val/loss" in str(message["content"].get("data")) and manager.is_alive():
            manager.interrupt_kernel()

    with warnings.catch_warnings(action="ignore"):  # of the kernel's connection
        from jupyter_client.manager import start_new_kernel

        manager, client = start_new_kernel(kernel_name="python3")
    try:
        run_cell(client, "import dlopt")
        messages = run_cell(client, 'dlopt.train(["data=digits", "epochs=2000", "threads=1"])', stop)
        assert [content["ename"] for kind, content in messages if kind == "error"] == ["KeyboardInterrupt"]
        shown = [content for kind, content in messages if kind == "update_display_data"]
        assert "the state is saved" in str(shown[-1]) and len({c["transient"]["display_id"] for c in shown}) == 1
        messages = run_cell(client, 'run = dlopt.train(["resume=last", "epochs=30"]); run.plot("loss"); run.plot()')
        results = [content["data"] for kind, content in messages if kind == "execute_result"]
        assert [set(data) for data in results] == [{"text/plain", "image/png"}]
        messages = run_cell(client, "print(run.status)")
        assert ("stream", {"name": "stdout", "text": "done\n"}) in messages
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.long
def test_the_notebook_of_the_docs_gives_the_outputs_that_it_holds(tmp_path):
    """Each cell has outputs of the same kinds; numbers depend on the machine."""
    with warnings.catch_warnings(action="ignore"):  # of the kernel's connection
        executed = execute(tmp_path)
    stored = nbformat.read(NOTEBOOK, as_version=4)

    def list_kinds(notebook):
        outputs = [cell.get("outputs", []) for cell in notebook.cells]
        return [[(o.output_type, sorted(o.get("data", ()))) for o in each] for each in outputs]

    assert list_kinds(executed) == list_kinds(stored)
    assert "stderr" not in NOTEBOOK.read_text() and str(tmp_path) not in str(executed)
    assert NOTEBOOK.stat().st_size < 200_000
