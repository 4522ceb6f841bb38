"""W&B beside a run: which mode, what is sent, and that nothing it does can end a run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb

from cli import app
from recipes.core.config import compose, registry, settings
from recipes.core.config.registry import ROOT
from recipes.core.config.settings import SMALL, SMOKE, TrackerConfig
from recipes.core.errors import UserError
from recipes.core.runs.folder import RunFolder, run_folder
from recipes.core.runs.tracking import wandb_tracker
from recipes.core.runs.tracking.opening import open_tracker, tracker_kind
from recipes.core.runs.tracking.tracker import GuardedTracker, NullTracker, Tracked, run_id
from recipes.core.runs.tracking.wandb_tracker import WandbTracker, has_login, text_html, wandb_mode

KEYS = [
    "budget=smoke",
    "trainer.threads=1",
    "trainer.max_steps=6",
    "trainer.log_steps=2",
    "evaluation.watch_every=3",
    "tracker.mode=offline",
]


@pytest.fixture
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user without W&B key, netrc or settings; gives the netrc that would be read."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".netrc"


def tracked(config: TrackerConfig, folder: Path) -> Tracked:
    """What a tracker is opened for."""
    return Tracked(config, folder, folder.parent, "prior/ntp/0-s0", "prior", {"trainer": {"max_steps": 6}})


class Run:
    """A W&B run whose methods fail as told."""

    def __init__(self, *failing: str) -> None:
        self.failing, self.calls, self.endings = failing, [], []  # type: ignore[var-annotated]
        self.summary = self

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failing:
            raise ConnectionError(f"{name} lost\nsecond line")

    def log(self, entry: dict[str, Any], step: int | None = None) -> None:
        self._called("log")

    def update(self, entry: dict[str, Any]) -> None:
        self._called("update")

    def finish(self, exit_code: int) -> None:
        self.endings.append(exit_code)
        self._called("finish")


def test_auto_is_online_with_a_login_and_offline_without(no_login: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wandb_mode(TrackerConfig()) == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert wandb_mode(TrackerConfig()) == "online"


@pytest.mark.parametrize(
    ("value", "mode"),
    [("true", "disabled"), ("1", "disabled"), ("false", "offline"), ("n", "offline"), ("", "offline")],
)
def test_wandb_disabled_is_honoured(value: str, mode: str, no_login: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DISABLED", value)
    assert wandb_mode(TrackerConfig()) == mode
    assert wandb_mode(TrackerConfig(mode="offline")) == "offline"  # typed


def test_a_login_in_netrc_counts_for_its_host_only(no_login: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_login.write_text("machine api.wandb.ai login user password secret\n")
    no_login.chmod(0o600)
    assert has_login()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_login()


def test_an_unreadable_netrc_is_no_login(no_login: Path) -> None:
    no_login.write_text("machine\nwhat is this")
    assert not has_login()


@pytest.mark.parametrize(
    ("config", "variable", "mode"),
    [
        (TrackerConfig(), "offline", "offline"),
        (TrackerConfig(), "disabled", "disabled"),
        (TrackerConfig(), "online", "online"),
        (TrackerConfig(), "nonsense", "offline"),
        (TrackerConfig(mode="offline"), "online", "offline"),
        (TrackerConfig(mode="disabled"), "online", "disabled"),
    ],
)
def test_the_config_outranks_the_environment(
    config: TrackerConfig, variable: str, mode: str, no_login: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", variable)
    assert wandb_mode(config) == mode


@pytest.mark.parametrize("config", [TrackerConfig(kind="none"), TrackerConfig(mode="disabled")])
def test_no_tracker_takes_everything_and_writes_nothing(config: TrackerConfig, tmp_path: Path) -> None:
    tracker = open_tracker(tracked(config, tmp_path), SMALL)
    assert isinstance(tracker, NullTracker)
    tracker.log(1, {"a": 1.0})
    tracker.table("beside ntp", ["metric"], [["a"]])
    tracker.finish(True)
    assert not list(tmp_path.iterdir())


def test_what_fails_is_told_once_and_not_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run("log")
    tracker = GuardedTracker("W&B", lambda: WandbTracker(run))
    for step in range(5):
        tracker.log(step, {"loss": 1.0})
    tracker.summary({"loss": 1.0})
    tracker.finish(True)
    assert run.calls == ["log"]
    assert capsys.readouterr() == (
        "",
        "warning: W&B failed (ConnectionError: log lost); the run goes on without it, metrics.jsonl has everything\n",
    )


@pytest.mark.parametrize(("success", "code"), [(True, 0), (False, 1)])
def test_a_run_without_success_is_marked_failed(success: bool, code: int) -> None:
    run = Run()
    WandbTracker(run).finish(success)
    assert run.endings == [code]


@pytest.mark.parametrize("failing", ["init", "log", "update", "finish"])
def test_a_run_whose_wandb_fails_is_done_all_the_same(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(failing)

    def init(**_: Any) -> Run:
        run._called("init")
        return run

    monkeypatch.setattr(wandb, "init", init)
    assert app.main(["run", "prior", *KEYS, f"outputs={tmp_path}"]) == 0
    streams = capsys.readouterr()
    assert streams.err.count("warning: W&B failed") == 1
    assert f"ConnectionError: {failing} lost" in streams.err
    assert "W&B" not in streams.out
    (status,) = tmp_path.rglob("status.json")
    assert json.loads(status.read_text())["state"] == "done"


def test_a_failed_run_is_failed_in_wandb_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes.core import execution

    def broken(*_: Any) -> None:
        raise ValueError("evaluation broke")

    run = Run()
    monkeypatch.setattr(wandb, "init", lambda **_: run)
    monkeypatch.setattr(execution, "_evaluate", broken)
    assert app.main(["run", "prior", *KEYS, f"outputs={tmp_path}"]) == 1
    assert run.endings == [1]


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory, session_home: Path) -> tuple[Path, str, str]:
    """A real offline run beside its baseline, by a process of its own: W&B's run folder, and both streams."""
    outputs, user = tmp_path_factory.mktemp("offline"), tmp_path_factory.mktemp("user")
    keys = [*KEYS, f"outputs={outputs}"]
    environment = os.environ | {"STEELYARD_HOME": str(session_home), "WANDB_MODE": "offline", "HOME": str(user)}
    environment.pop("WANDB_DATA_DIR", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_HOME", str(session_home))
        assert app.main(["run", "prior", "arm=ntp", *keys, "tracker=none"]) == 0
    line = [sys.executable, "-m", "cli.app", "run", "prior", *keys]
    ended = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert not list(user.rglob("wandb/artifacts")), "files of tables lie in the user's home"
    (folder,) = (run_folder(compose.compose("prior", keys)).path / "wandb").glob("offline-run-*")
    return folder, ended.stdout, ended.stderr


def table_of(folder: Path, name: str) -> dict[str, Any]:
    (path,) = (folder / "files" / "media" / "table").glob(f"{name}_*.table.json")
    return dict(json.loads(path.read_text()))


def test_wandb_prints_nothing_of_its_own(offline: tuple[Path, str, str]) -> None:
    _, out, err = offline
    assert out.startswith("prior: prior, seed 0\n")
    assert "wandb" not in (out + err).lower()


def test_an_offline_run_holds_metrics_heatmap_and_picture(offline: tuple[Path, str, str]) -> None:
    folder = offline[0]
    (stream,) = folder.glob("*.wandb")
    for name in (b"train/loss", b"final/nll/image", b"weighting"):
        assert name in stream.read_bytes(), name
    assert list((folder / "files" / "media" / "images").glob("report_*.png"))
    table = table_of(folder, "token weights")
    assert table["columns"] == ["id", "image", "text", "largest weight", "share below 0.05"]
    assert {tuple(row[1:3]) for row in table["data"]} == {("Image", "Html")}
    staged = [path.read_bytes() for path in (folder.parent / "artifacts" / "staging").iterdir()]
    assert sum(b"<span title=" in content for content in staged) == len(table["data"])
    assert sum(content.startswith(b"\x89PNG") for content in staged) == len(table["data"])


def test_captions_without_an_image_are_a_table_too(capsys: pytest.CaptureFixture[str]) -> None:
    logged: list[dict[str, Any]] = []
    tokens = [{"text": "one", "weight": 1.0}, {"text": " two", "weight": 0.0}]
    tracker = WandbTracker(SimpleNamespace(log=logged.append))
    tracker.heatmap("words", {"examples": [{"id": "text 0", "image": "", "tokens": tokens}]})
    ((name, image, _, largest, low),) = logged[0]["words"].data
    assert (name, image, largest, low) == ("text 0", None, 1.0, 0.5)
    assert capsys.readouterr().err == ""


def test_the_comparison_with_the_baseline_is_a_table(offline: tuple[Path, str, str]) -> None:
    table = table_of(offline[0], "beside ntp")
    assert table["columns"][:4] == ["metric", "title", "arm prior", "arm ntp"]
    assert table["columns"][-1] == "outcome"
    rows = {row[0]: row for row in table["data"]}
    assert table["data"][0][0] == registry.card("prior").claim.metric
    assert rows["nll/image"][-1] in ("better", "worse", "unclear")


def test_a_run_without_tracker_imports_no_wandb() -> None:
    code = """
import sys
from pathlib import Path
from types import SimpleNamespace
from recipes.core import execution
from recipes.core.config.settings import TrackerConfig
from recipes.core.runs.tracking.opening import open_tracker
from recipes.core.runs.tracking.tracker import Tracked
open_tracker(Tracked(TrackerConfig(kind="none"), Path("."), Path("."), "", "", {}), "small")
print([name for name in sys.modules if name.split(".")[0] == "wandb"])
"""
    environment = os.environ | {"WANDB_MODE": "offline"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert (ended.stdout, ended.returncode) == ("[]\n", 0), ended.stderr


def test_a_caption_is_shaded_by_weight_and_escaped() -> None:
    tokens = [{"text": "a <b>", "weight": 0.5}, {"text": " three", "weight": 2.0}]
    shown = text_html(tokens)
    assert "a &lt;b&gt;" in shown and "<b>" not in shown
    assert "rgba(230, 150, 30, 0.25)" in shown and "rgba(230, 150, 30, 1.00)" in shown
    assert 'title="weight 2.00"' in shown
    assert "0.00)" in text_html([{"text": "a", "weight": 0.0}])


def test_a_data_folder_that_the_user_chose_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", "set by a run before")
    monkeypatch.setattr(wandb, "init", lambda **_: Run())
    config = TrackerConfig(mode="offline")
    monkeypatch.setattr(wandb_tracker, "DATA_DIR", None)
    open_tracker(tracked(config, tmp_path), SMALL)
    assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "wandb")
    monkeypatch.setattr(wandb_tracker, "DATA_DIR", "/chosen")
    open_tracker(tracked(config, tmp_path), SMALL)
    assert os.environ["WANDB_DATA_DIR"] == "/chosen"


@pytest.mark.parametrize(
    ("config", "budget", "kind"),
    [
        (TrackerConfig(), SMOKE, "none"),
        (TrackerConfig(), SMALL, "wandb"),
        (TrackerConfig(mode="offline"), SMOKE, "wandb"),
        (TrackerConfig(kind="wandb"), SMOKE, "wandb"),
        (TrackerConfig(kind="tensorboard"), SMOKE, "tensorboard"),
        (TrackerConfig(kind="mlflow", mode="disabled"), SMALL, "mlflow"),
        (TrackerConfig(kind="none", mode="online"), SMALL, "none"),
        (TrackerConfig(kind="wandb", mode="disabled"), SMALL, "none"),
    ],
)
def test_a_smoke_run_has_a_tracker_only_where_one_is_typed(
    config: TrackerConfig, budget: str, kind: str, no_login: Path
) -> None:
    assert tracker_kind(config, budget) == kind


@pytest.mark.parametrize("kind", ["auto", "none", "wandb", "tensorboard", "mlflow"])
def test_each_tracker_has_its_file(kind: str) -> None:
    assert compose.compose("prior", [f"tracker={kind}"]).tracker.kind == kind


@pytest.mark.parametrize("kind", ["auto", "none", "wandb", "tensorboard", "mlflow"])
def test_a_run_that_is_called_as_a_tracker_is_refused(kind: str) -> None:
    with pytest.raises(UserError) as refused:
        compose.compose("prior", [f"tracker.name={kind}"])
    assert f"tracker.name: is what the run is called there; type tracker={kind}" in refused.value.hint


def test_a_tracker_that_is_not_installed_is_refused_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    with pytest.raises(UserError) as refused:
        compose.compose("prior", ["tracker=mlflow"])
    assert "mlflow is not installed: type pip install -e '.[mlflow]', or tracker=none" in refused.value.hint


def test_the_id_of_a_run_is_its_folders_and_another_in_each(tmp_path: Path) -> None:
    first, known = run_id(tmp_path / "a", "wandb")
    assert not known
    assert run_id(tmp_path / "a", "wandb") == (first, True)
    assert run_id(tmp_path / "b", "wandb")[0] != first
    assert run_id(tmp_path / "a", "mlflow")[0] != first
    RunFolder(tmp_path / "a").clear()  # what --fresh does
    assert run_id(tmp_path / "a", "wandb")[0] != first


def test_a_damaged_file_of_ids_starts_another_run(tmp_path: Path) -> None:
    first, _ = run_id(tmp_path, "wandb")
    (tmp_path / "tracker.json").write_text('{"wandb": ')
    second, known = run_id(tmp_path, "wandb")
    assert second != first and not known
    assert run_id(tmp_path, "wandb") == (second, True)


def test_wandb_is_sent_name_tags_and_notes_and_goes_on_in_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, Any]] = []
    logged: list[tuple[dict[str, float], int]] = []
    run = SimpleNamespace(log=lambda entry, step: logged.append((entry, step)))

    def init(**keys: Any) -> Any:
        started.append(keys)
        return run

    monkeypatch.setattr(wandb, "init", init)
    config = TrackerConfig(mode="online", name="mine", tags=("a", "b"), notes="why")
    for _ in range(2):
        open_tracker(tracked(config, tmp_path), SMALL).log(3, {"loss": 1.0})
    first, second = started
    assert (first["name"], first["tags"], first["notes"], first["group"]) == ("mine", ["a", "b"], "why", "prior")
    assert first["id"] == second["id"] and second["resume"] == "allow"
    assert logged[0] == ({"loss": 1.0, "step": 3}, 3)
    other = tmp_path / "other"
    open_tracker(tracked(config, other), SMALL)
    assert started[2]["id"] != first["id"]


def test_a_tag_that_wandb_would_refuse_is_refused_and_several_tags_are_a_list():
    with pytest.raises(UserError, match="tracker.tags: W&B takes tags of at most 64 characters, and x+ has 65"):
        compose.compose("prior", [f"tracker.tags=[a,{'x' * 65}]"])
    assert compose.compose("prior", [f"tracker.tags=[{'x' * 65}]", "tracker=tensorboard"]).tracker.tags == ("x" * 65,)
    with pytest.raises(UserError, match=r"type a list: 'tracker.tags=\[a,b\]'"):
        compose.compose("prior", ["tracker.tags=a,b"])
