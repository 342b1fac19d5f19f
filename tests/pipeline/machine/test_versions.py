"""Which versions all machines must have."""

import subprocess
from pathlib import Path

import pytest

from kinegraph.pipeline.machine import versions as module
from kinegraph.pipeline.machine.versions import agreed_versions, differing_versions

HERE = {"kinegraph": "0.1.0", "torch": "2.11.0", "av": "18"}


@pytest.mark.parametrize(
    ("there", "told"),
    [
        ({"git": "abc"}, ""),
        ({"git": "abc", "av": "17"}, ""),
        ({"git": "def"}, "git def (here abc)"),
        ({}, ""),
        ({"git": "def", "torch": "2.9.0"}, "torch 2.9.0 (here 2.11.0), git def (here abc)"),
    ],
)
def test_another_kinegraph(monkeypatch: pytest.MonkeyPatch, there: dict[str, str], told: str) -> None:
    """Of one version are many commits; what is no checkout knows of none."""
    monkeypatch.setattr(module, "versions", lambda: HERE)
    monkeypatch.setattr(module, "_git", lambda *command: "abc")
    expected = agreed_versions()
    monkeypatch.setattr(module, "versions", lambda: HERE | there)
    monkeypatch.setattr(module, "_git", lambda *command: there.get("git", ""))
    assert differing_versions(expected) == told


def told_in(checkout: Path) -> tuple[dict[str, str], str]:
    """What must agree, and what records call the commit, where kinegraph is in this checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "__file__", str(checkout / "pipeline" / "machine" / "versions.py"))
        for cached in ("versions", "_git"):
            patch.setattr(module, cached, getattr(module, cached).__wrapped__)
        return agreed_versions(), module.versions()["git"]


def test_a_tag_makes_no_other_commit(tmp_path: Path) -> None:
    def git(checkout: str, *command: str) -> None:
        here = ["git", "-C", str(tmp_path / checkout), "-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run([*here, *command], check=True)

    git("", "init", "-q", "tagged")
    git("tagged", "commit", "-q", "--allow-empty", "-m", "first")
    git("", "clone", "-q", "--no-tags", "tagged", "other")
    git("tagged", "tag", "-a", "v9", "-m", "v9")
    tagged, other = told_in(tmp_path / "tagged"), told_in(tmp_path / "other")
    assert tagged[1] == "v9" != other[1]
    assert tagged[0] == other[0]
    git("other", "commit", "-q", "--allow-empty", "-m", "second")
    assert "git " in differing_versions(tagged[0], told_in(tmp_path / "other")[0])


def test_without_git_the_missing_commit_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(module, "__file__", str(tmp_path / "pipeline" / "machine" / "versions.py"))
    monkeypatch.setenv("PATH", str(tmp_path))
    for _ in range(2):
        assert module._git.__wrapped__("rev-parse", "HEAD") == ""
    assert caplog.messages == [
        f"git is not on the PATH, so records do not name the commit of kinegraph in {tmp_path}. "
        "Install git to record the commit."
    ]
