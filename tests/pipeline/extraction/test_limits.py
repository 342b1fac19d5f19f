"""What limits a config, in words, on made numbers."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.limits import Machine, Saved
from kinegraph.pipeline.extraction.limits import limit as limit_of

Load = Callable[..., Config]
GPU = Machine(is_cpu=False, cores=16, decoders=4, has_fast_bf16=True)
CPU = Machine(is_cpu=True, cores=4, decoders=4, has_fast_bf16=False)
WORK = {"features/tiny": 2.0, "proposals": 7.0, "regions/tiny": 0.5, "copy": 0.25, "rest": 0.25}
WAITS = {"waiting for the first batch": 50.0, "waiting for decode": 90.0, "waiting for writer": 0.0}
DETECTOR = ["proposals={source: torchvision, weights: random:0}"]
NEW = "(values change with it, so it needs another `cache`)"


def limit(
    config: Config,
    machine: Machine,
    computing: dict[str, float],
    beside: dict[str, float],
    saved: Saved = lambda key, precision: None,
) -> str:
    """Of a device without events."""
    return limit_of(config, machine, computing, beside, {}, saved)


def test_a_gpu_counts_and_not_the_wait_for_it(load: Load) -> None:
    started = {"features/tiny": 0.2, "proposals": 0.1, "tracks": 0.5, "copy": 8.0, "rest": 0.5}
    on_device = {"features/tiny": 3.0, "proposals": 6.0, "tracks": 0.1}
    told = limit_of(load(*DETECTOR), GPU, started, {"decode": 36.0}, on_device)
    assert told.startswith("limit: boxes (`proposals`), 60 % of the work of this unit")


def test_the_longest_stage_limits_where_threads_keep_up(load: Load) -> None:
    config = load(*DETECTOR)
    told = limit(config, GPU, WAITS | WORK, {"decode": 36.0, "write": 1.0})
    assert told == (
        "limit: boxes (`proposals`), 70 % of the work of this unit. What helps: "
        f"`proposals.precision: bf16`, not measured {NEW}; `proposals.every: 2` {NEW}."
    )
    assert "bf16" not in limit(config, CPU, WORK, {}), "that CPU is slow at it"
    assert "a GPU, if one can be had" in limit(config, CPU, WORK, {})


def test_no_frame_is_skipped_that_regions_need(load: Load) -> None:
    config = load("proposals={source: torchvision, weights: random:0, every: 2}", "regions.backbones=[tiny]")
    assert "every" not in limit(config, GPU, WORK, {}), "the tap of the regions has every second frame"


def test_boxes_of_no_network_have_no_precision(load: Load) -> None:
    told = limit(load("proposals={source: grid}"), CPU, WORK, {})
    assert told.startswith("limit: boxes (`proposals`), 70 % of the work of this unit")
    assert "precision" not in told


@pytest.mark.parametrize(
    ("precision", "machine", "helps"),
    [
        ("fp32", GPU, f"`backbones.tiny.precision: bf16`, not measured {NEW}."),
        ("fp32", CPU, "a GPU, if one can be had (`run.device`)."),
        ("bf16", CPU, f"`backbones.tiny.precision: fp32`, not measured {NEW}; a GPU, if one can be "
         "had (`run.device`)."),
    ],
)  # fmt: skip
def test_a_backbone_limits(load: Load, precision: str, machine: Machine, helps: str) -> None:
    config = load(f"backbones.tiny.precision={precision}")
    told = limit(config, machine, {"features/tiny": 3.0, "proposals": 1.0}, {})
    assert told == f"limit: the backbone (`features/tiny`), 75 % of the work of this unit. What helps: {helps}"


@pytest.mark.parametrize(
    ("share", "said"), [(0.354, "saves 35 % of that, measured on one batch"), (0.04, ""), (-1, "")]
)
def test_a_number_is_one_that_was_measured(load: Load, share: float, said: str) -> None:
    asked = []

    def saved(key: str, precision: str) -> float:
        asked.append((key, precision))
        return share

    told = limit(load(*DETECTOR), GPU, WORK, {}, saved)
    assert asked == [("proposals", "bf16")]
    assert said in told
    assert ("precision" in told) == bool(said), "what saves nothing is no help"
    limit(load(*DETECTOR), GPU, WORK, {"write": 99.0}, saved)
    assert len(asked) == 1, "nothing is measured that limits nothing"


def test_nothing_is_promised_where_nothing_helps(load: Load) -> None:
    config = load("backbones.tiny.precision=bf16")
    told = limit(config, GPU, {"features/tiny": 3.0}, {})
    assert told == "limit: the backbone (`features/tiny`), 100 % of the work of this unit."


def test_other_stages(load: Load) -> None:
    config = load()
    assert limit(config, GPU, {"regions/tiny": 1.0}, {}).startswith("limit: RoIAlign (`regions/tiny`), 100 %")
    assert "`proposals.top` below 4" in limit(config, GPU, {"regions/tiny": 1.0}, {})
    assert (
        limit(config, GPU, {"tracks": 1.0}, {}) == "limit: linking tracks (`tracks`), 100 % of the work of this unit."
    )
    assert "`store: [pooled]`" in limit(config, GPU, {"copy": 1.0}, {})
    assert limit(config, GPU, {"network": 1.0}, {}) == "limit: `network`, 100 % of the work of this unit."
    assert limit(config, GPU, {}, {}) == "limit: work between the stages, 0 % of the work of this unit."


def test_decoders_that_are_slower_than_the_stages_limit(load: Load) -> None:
    told = limit(load(), GPU, WORK, {"decode": 38.0, "convert and resize": 10.0})
    assert told == (
        "limit: decoding. It takes 12.0 s, and the stages take 10.0 s. What helps: more threads (`run.decode_threads`, "
        "now 4 on 16 cores)."
    )
    in_time = {"waiting for the first batch": 12.0, "waiting for decode": 0.3}
    told = limit(load(), GPU, WORK | in_time, {"decode": 38.0, "convert and resize": 10.0})
    assert told.startswith("limit: boxes"), "no batch came late: the cores had much to do"
    all_cores = replace(GPU, cores=4)
    told = limit(load(), all_cores, WORK, {"decode": 10.0, "convert and resize": 38.0})
    assert "more cores, or workers on other machines; fewer frames, `clips.num_frames`" in told
    converting = {"convert and resize": 48.0}
    assert "a smaller `proposals.short_side`" in limit(load(*DETECTOR), all_cores, WORK, converting)
    assert "swscale" not in limit(load(*DETECTOR), all_cores, WORK, converting), "crops are cut first"
    whole = load(*DETECTOR, "backbones.tiny.resize_short=72", "backbones.tiny.size=64")
    assert f"`resize: swscale` under backbones.tiny and proposals {NEW}; " in limit(whole, all_cores, WORK, converting)


def test_decoding_between_batches_is_work_of_the_same_thread(load: Load) -> None:
    inline = replace(CPU, decoders=0)
    told = limit(load(), inline, WAITS | WORK, {"decode": 25.0, "convert and resize": 5.0})
    assert told == (
        "limit: decoding, 75 % of the work of this unit. What helps: `--executor local`, which decodes in threads "
        "beside the stages."
    )


def test_other_threads_limit(load: Load) -> None:
    maps = load("backbones.tiny.store=[maps,pooled]", "store.compression=zstd")
    assert limit(maps, GPU, WORK, {"write": 11.0}) == (
        "limit: writing. It takes 11.0 s, and the stages take 10.0 s. What helps: `store.compression: none`, in "
        "another cache; `backbones.tiny.store: [pooled]`, in another cache, if nothing reads the maps; a faster disk "
        "for the cache."
    )
    assert "copying from URLs. It takes 12.5 s" in limit(load(), GPU, WORK, {"fetch": 50.0, "waiting for fetch": 99.0})
    assert "putting batches together. It takes 11.0 s" in limit(load(), GPU, WORK, {"assemble": 11.0})
