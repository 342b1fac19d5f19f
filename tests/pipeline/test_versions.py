"""Which versions all machines must have."""

import pytest

from pipeline import versions as module
from pipeline.versions import agreed_versions, differing_versions

HERE = {"kinegraph": "0.1.0", "torch": "2.11.0", "av": "18"}


@pytest.mark.parametrize(
    ("there", "told"),
    [
        ({"git": "abc"}, ""),
        ({"git": "abc-dirty", "av": "17"}, ""),
        ({"git": "def"}, "git def (here abc)"),
        ({}, ""),
        ({"git": "def", "torch": "2.9.0"}, "torch 2.9.0 (here 2.11.0), git def (here abc)"),
    ],
)
def test_another_kinegraph(monkeypatch: pytest.MonkeyPatch, there: dict[str, str], told: str) -> None:
    """Of one version are many commits; what is no checkout knows of none."""
    monkeypatch.setattr(module, "versions", lambda: HERE | {"git": "abc-dirty"})
    expected = agreed_versions()
    monkeypatch.setattr(module, "versions", lambda: HERE | there)
    assert differing_versions(expected) == told
