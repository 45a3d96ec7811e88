"""The curve that is drawn while a model trains: for a person at a kernel, not for papermill."""

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

CODE = """
import time
from types import SimpleNamespace
from workbook.progress import Log
log = Log(Path({path!r}), list(range(0, 1010, 10)))
state = SimpleNamespace(global_step=0, max_steps=100, is_world_process_zero=True)
log.on_train_begin(None, state, None)
for state.global_step in range(1, 101):
    log.on_log(None, state, None, logs={{"loss": 1 / state.global_step, "train_runtime": 1.0}})
    time.sleep(0.03)
log.on_train_end(None, state, None)
"""


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "training.jsonl"
    path.write_text("")
    return "from pathlib import Path\n" + CODE.format(path=str(path))


def test_a_live_kernel_sees_the_curve_grow_in_place(code):
    manager, client = start_new_kernel()
    try:
        messages = []
        reply = client.execute_interactive(code, allow_stdin=True, output_hook=messages.append, timeout=120)
        assert reply["content"]["status"] == "ok", reply["content"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    kinds = [message["msg_type"] for message in messages]
    drawn = [m for m in messages if m["msg_type"] == "update_display_data" and "image/png" in m["content"]["data"]]
    assert kinds.count("display_data") == 1 and 2 <= len(drawn) <= 4, "three seconds of training: one place, a few pictures"
    printed = "".join(m["content"]["text"] for m in messages if m["msg_type"] == "stream")
    assert printed.count("tokens/s") == 10 and "step 100 of 100   loss 0.010" in printed


def test_a_headless_run_gets_plain_lines(code):
    """nbclient, by which papermill runs a notebook."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = notebook.cells[0].outputs
    assert {output.output_type for output in outputs} == {"stream"}
    assert "".join(output.text for output in outputs).count("tokens/s") == 10
