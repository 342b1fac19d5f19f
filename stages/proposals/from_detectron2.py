"""Computes proposals with the installed package detectron2, from any of its configs with a proposal network."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from kinegraph.cache_schemas.regular import open_regular
from kinegraph.cache_schemas.words import counted
from kinegraph.stages.errors import UsageError, WeightsError
from kinegraph.stages.proposals.build import IGNORED
from kinegraph.stages.proposals.options import Detectron2Options
from kinegraph.stages.proposals.source import ClipFrames, ClipProposals
from kinegraph.stages.weights.files import read_state

SECOND_STAGE = "roi_heads."


class Detectron2Source:
    """A source of proposals that runs the installed package detectron2 on `device`, one frame at a time. `options` name
    the config and the weights of detectron2. detectron2 itself resizes the frame.

    Raises UsageError if detectron2 is not installed, or if the config is wrong or has no proposal network. Raises
    WeightsError if the weights cannot be read or do not belong to the config.
    """

    def __init__(self, options: Detectron2Options, device: torch.device) -> None:
        self.options, self.device = options, device
        try:
            from detectron2.data.transforms import ResizeShortestEdge
            from detectron2.modeling import build_model
        except ImportError as error:
            raise _not_installed(error) from error
        config, weights = _config(options)
        config.MODEL.DEVICE = str(device)
        config.MODEL.RPN.POST_NMS_TOPK_TEST = options.top  # the first boxes of a longer list are the same boxes
        self.digest = _digest(config, weights)
        with _naming_config(options):
            self._model = build_model(config).eval().requires_grad_(False)
        if getattr(self._model, "proposal_generator", None) is None:
            kind = config.MODEL.META_ARCHITECTURE
            raise UsageError(f"proposals.config: given {options.config}, a {kind}; allowed: one with an RPN")
        _load(self._model, weights)
        self._resize = ResizeShortestEdge([config.INPUT.MIN_SIZE_TEST] * 2, config.INPUT.MAX_SIZE_TEST)
        self._is_bgr = config.INPUT.FORMAT == "BGR"

    @property
    def frames_together(self) -> int:
        return 1

    @torch.inference_mode()
    def propose(self, frames: ClipFrames) -> ClipProposals:
        assert frames.pixels is not None
        out = ClipProposals.empty(len(frames.pixels), self.options.top)
        for t, frame in enumerate(frames.pixels):
            instances = self._propose(frame[..., ::-1] if self._is_bgr else frame)
            num = out.count[t] = len(instances)
            out.boxes[t, :num] = instances.proposal_boxes.tensor.cpu().numpy()
            out.scores[t, :num] = instances.objectness_logits.cpu().numpy()
        return out

    def _propose(self, frame: np.ndarray) -> Any:
        """Runs the network of detectron2 on one `frame`, uint8 [rows, columns, 3]. Returns the proposals as
        detectron2's `Instances`. Boxes are in pixels of the frame.

        The channels of the frame must have the order (RGB or BGR) that the config of detectron2 asks for.
        """
        from detectron2.modeling.postprocessing import detector_postprocess
        from detectron2.structures import ImageList

        model = self._model
        resized = self._resize.get_transform(frame).apply_image(frame)
        image = torch.as_tensor(resized.astype("float32").transpose(2, 0, 1)).to(self.device)
        images = ImageList.from_tensors(
            [(image - model.pixel_mean) / model.pixel_std], model.backbone.size_divisibility
        )
        (instances,), _ = model.proposal_generator(images, model.backbone(images.tensor), None)
        return detector_postprocess(instances, *frame.shape[:2])


def _config(options: Detectron2Options) -> tuple[Any, Path]:
    """Returns (config object of detectron2, path of the weights file). A file of detectron2's model zoo is downloaded
    at first use.

    Raises UsageError if detectron2 is not installed or does not understand the config. Raises WeightsError if a file
    cannot be read or downloaded.
    """
    from detectron2.config import get_cfg
    from detectron2.utils.file_io import PathManager

    config, is_own = get_cfg(), Path(options.config).is_file()
    try:
        if not is_own or options.weights == "zoo":
            from detectron2 import model_zoo  # it needs setuptools < 81
        with _naming_config(options):
            file = options.config if is_own else model_zoo.get_config_file(options.config)
            config.merge_from_file(file, allow_unsafe=False)  # otherwise a tag in the file could run code
            weights = model_zoo.get_checkpoint_url(options.config) if options.weights == "zoo" else options.weights
        path = Path(PathManager.get_local_path(weights))
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        return config, path
    except ImportError as error:
        raise _not_installed(error) from error
    except OSError as error:
        raise WeightsError(
            f"proposals.weights: {options.weights} of {options.config} cannot be had: {error}"
        ) from error


@contextmanager
def _naming_config(options: Detectron2Options) -> Iterator[None]:
    """Returns a context that turns errors of detectron2 into UsageError. The message names the config in `options`."""
    try:
        yield
    except (RuntimeError, KeyError, ValueError, AssertionError, yaml.YAMLError) as error:
        raise UsageError(
            f"proposals: {options.config} with weights {options.weights}: {error}; give a yaml file of detectron2's "
            "own keys, or a name of its model zoo; `zoo` as weights goes with the latter"
        ) from error


def _load(model: torch.nn.Module, path: Path) -> None:
    """Loads the weights in the file `path` into `model`.

    The file may lack the weights of a detector's second stage, which classifies boxes, because kinegraph does not run
    this stage. Raises WeightsError if the file lacks other weights of `model`, or has weights that `model` does not
    have.
    """
    state = read_state(path)
    try:
        missing, unused = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not belong to this config: {error}") from error
    missing = [key for key in missing if not key.startswith(SECOND_STAGE)]
    unused = [key for key in unused if not key.startswith(IGNORED)]
    if missing or unused:
        raise WeightsError(
            f"{path} does not belong to this config: {counted(len(missing), 'tensor')} missing "
            f"({', '.join(missing[:5])}), {len(unused)} unused ({', '.join(unused[:5])})"
        )


def _digest(config: Any, weights: Path) -> str:
    """Returns one digest of the weights file `weights` and of the parts of detectron2's `config` on which proposals
    depend.
    """
    config = config.clone()
    config.MODEL.WEIGHTS = config.MODEL.DEVICE = ""
    config.MODEL.RPN.POST_NMS_TOPK_TEST = 0  # a constant here, because the fingerprint covers `top` itself
    digest = hashlib.sha256(f"{config.MODEL.dump()}{config.INPUT.dump()}".encode())
    with open_regular(weights) as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _not_installed(error: ImportError) -> UsageError:
    return UsageError(
        f"proposals.source: detectron2 cannot be imported ({error}). It has no wheels; build it into this environment: "
        "pip install -e '.[detectron2]', then pip install --no-build-isolation "
        "git+https://github.com/facebookresearch/detectron2. Or run the same official file without it: "
        "`source: detectron2-checkpoint`."
    )
