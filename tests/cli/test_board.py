"""`steelyard board` over the folders of runs of this machine."""

import json

from recipes.core.trial import manifest as manifests
from recipes.core.trial.result import write_results
from tests.core.trials import make_trial


def test_the_board_is_written_into_the_outputs_and_links_reports(steelyard, make_run) -> None:
    trial = make_trial(make_run)
    manifests.write(trial.folder, trial.manifest)
    write_results(trial)
    (trial.folder / "report.html").touch()
    outputs = trial.folder.parents[2]
    ended = steelyard("board", "--outputs", outputs)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[:2] == [f"board     {outputs / 'board.html'}", "trials    1"]
    assert 'href="prior/trials/0123456789/report.html"' in (outputs / "board.html").read_text()
    rows = json.loads(steelyard("board", outputs, "--json").out)["result"]["rows"]
    (row,) = [one for one in rows if one["verdict"]]
    assert (row["system"], row["verdict"]["word"], row["report"]) == (
        *("PRIOR", "supported", "prior/trials/0123456789/report.html"),
    )


def test_without_trials_every_system_stands_there_unmeasured_and_a_wrong_folder_is_refused(steelyard, tmp_path) -> None:
    ended = steelyard("board", "--to", tmp_path / "board.html")
    assert ended.code == 0 and "verdicts  0 of " in ended.out
    refused = steelyard("board", tmp_path / "nowhere")
    assert (refused.code, refused.out) == (2, "") and "there is no such folder of runs" in refused.err
    assert "is a folder" in steelyard("board", "--to", tmp_path).err


def test_where_nothing_can_be_written_is_refused_with_what_to_type(steelyard, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert steelyard("board", "--to", "~/mine/board.html").code == 0 and (tmp_path / "mine" / "board.html").exists()
    (tmp_path / "file").touch()
    for words in (["board"], ["export", "prior"], ["new", "some-name"], ["report", "prior", "--format", "csv"]):
        for place in ("/proc/x/y", tmp_path / "file" / "x"):
            ended = steelyard(*words, "--to", place)
            assert ended.code == 2 and f"--to {place}" in ended.err and "outputs=" not in ended.err
