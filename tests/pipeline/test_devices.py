import pytest
import torch

from pipeline.devices import described


def test_records_name_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Model {device.index}")
    assert [described(torch.device(name)) for name in ("cpu", "cuda:1")] == ["cpu", "cuda:1 (Model 1)"]
