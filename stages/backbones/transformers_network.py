"""Runs a network of the package transformers as a backbone.

Modules of the package are imported one by one, because its `Auto` classes take seconds to import and send requests to
the Hugging Face hub.

Shapes: B clips, T frames, N tokens, C channels, H rows and W columns. T', H' and W' are the sizes of a map.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kinegraph.cache_schemas.arrays import CLASS_SUFFIX, HEAD
from kinegraph.stages.backbones.backbone import Backbone, frame_by_frame
from kinegraph.stages.backbones.transformers_entry import NORM, tap_names
from kinegraph.stages.backbones.transformers_folder import ModelFolder
from kinegraph.stages.weights.random import draw_as_built
from kinegraph.stages.weights.transformers_load import class_and_config, load_network, refusals


class TransformersNetwork(Backbone):
    """A network of transformers as a backbone. `folder` describes the network, and `network` is its module. Names of
    parameters begin with `network.`.

    The tap `layer_<i>` is the output of layer i, counted from 0. The tap `norm` is the output of the last layer after
    the final norm. A map is made of the patch tokens.
    """

    stages = {}  # noqa: RUF012 (a ClassVar in the base; each of these networks has its own value)

    def __init__(self, folder: ModelFolder, network: nn.Module) -> None:
        super().__init__()
        self.folder, self.family, self.network = folder, folder.family, network
        _make_buffers(network)
        for path in self.family.unneeded:
            self._leave_out(path.removesuffix("."))
        self.taps = tap_names(folder)
        self._tokens: dict[str, Tensor] = {}
        self._hooks: list[Any] = []
        self._listen()

    def cut(self, taps: Sequence[str]) -> None:
        """Makes `taps` the wanted taps. Removes the layers above the highest of them. If the output `head` is wanted,
        all layers stay. A tap is a named layer, and `forward` returns the output of each wanted tap.

        `taps` must be a part of the present wanted taps. Raises ValueError if it is not, or if it is empty.
        """
        self._want_taps(taps)
        if not self.wants_head:
            self._leave_out(self.family.head_module)
            self._cut_above(self.taps[-1])
        self._listen()

    def _cut_above(self, tap: str) -> None:
        if tap == NORM:
            return
        layers = self.network.get_submodule(self.family.layers)
        assert isinstance(layers, nn.ModuleList)
        del layers[tap_names(self.folder).index(tap) + 1 :]
        self._leave_out(self.folder.norm or "")

    def _leave_out(self, path: str) -> None:
        """Replaces the submodule at `path` of the network by one that does nothing. An empty path is ignored."""
        parent, _, name = path.rpartition(".")
        if name and isinstance(getattr(self.network.get_submodule(parent), name), nn.Module):
            setattr(self.network.get_submodule(parent), name, nn.Identity())

    def _listen(self) -> None:
        """Registers hooks that put the output of the wanted taps' layers into `_tokens`."""
        for hook in self._hooks:
            hook.remove()
        places = {f"layer_{i}": f"{self.family.layers}.{i}" for i in range(self.folder.num_layers)}
        places[NORM] = self.folder.norm or ""
        self._hooks = [self._hook(tap, self.network.get_submodule(places[tap])) for tap in self.taps]

    def _hook(self, tap: str, module: nn.Module) -> Any:
        def keep(module: nn.Module, arguments: Any, output: Any) -> None:
            self._tokens[tap] = output[0] if isinstance(output, tuple) else output  # [B, N, C]

        return module.register_forward_hook(keep)

    def draw(self, seed: int) -> None:
        """Fills the network with random weights, as transformers initialises it. The weights depend on `seed` alone."""
        draw_as_built(self, seed, lambda: TransformersNetwork(self.folder, build(self.folder)))

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        """Runs the network on B clips. Returns {tap: maps [B, C, T', H', W']} for each wanted tap (a named layer).

        `clips` are normalised pixels [B, 3, T, H, W]. If class tokens are wanted, the result also has `<tap>_class` ->
        [B, T', C], or [B, 1, C] if a clip has one class token. If the output after the last tap is wanted, the result
        has `head` -> [B, C], or [B, T, C] in a network of single images.
        """
        if self.family.sees_single_frames:
            return frame_by_frame(self.run, clips)
        return self.run(clips.transpose(1, 2))

    def run(self, x: Tensor) -> dict[str, Tensor]:
        """Runs the network on B clips `x` [B, T, 3, H, W]. Returns {tap: maps [B, C, T', H', W']} for each wanted tap
        (a named layer).

        If class tokens are wanted, the result also has `<tap>_class` -> [B, 1, C]. If the output after the last tap is
        wanted, the result has `head` -> [B, C].

        A network of single images takes images [B, 3, H, W]. Its maps are [B, C, H', W'], and its class tokens are [B,
        C].
        """
        family, folder = self.family, self.folder
        num_frames, side = 1 if x.ndim == 4 else x.shape[1] // folder.patch_frames, x.shape[-1] // folder.patch_px
        arguments = dict(family.arguments)
        if family.resamples and x.shape[-1] != folder.size:
            arguments["interpolate_pos_encoding"] = True
        if family.has_grid:
            self._set_grid(side)
        result = self.network(x, **arguments)
        outputs: dict[str, Tensor] = {}
        for tap in self.taps:
            tokens = self._tokens.pop(tap)
            outputs[tap] = self._map(tokens[:, folder.num_prefix :], num_frames, side)
            if self.wants_class_tokens:
                first = tokens[:, 0]
                outputs[f"{tap}{CLASS_SUFFIX}"] = first if family.sees_single_frames else first[:, None]
        if self.wants_head:
            outputs[HEAD] = getattr(result, family.head)
        return outputs

    def _map(self, tokens: Tensor, num_frames: int, side: int) -> Tensor:
        """Returns the patch tokens [B, N, C] as maps [B, C, T', H', W'] of `num_frames` frames with `side` rows and
        columns, or as [B, C, H', W'] in a network of single images.
        """
        channels_first = tokens.transpose(1, 2)  # [B, C, N]
        batch_and_channels = channels_first.shape[:2]
        if self.family.order == "hw":
            return channels_first.view(*batch_and_channels, side, side)
        if self.family.order == "thw":
            return channels_first.view(*batch_and_channels, num_frames, side, side)
        return channels_first.view(*batch_and_channels, side, side, num_frames).movedim(4, 2)

    def _set_grid(self, side: int) -> None:
        """Sets the number of rows and columns of a map in the attention layers. Otherwise they take the numbers of the
        config.
        """
        module: Any
        for module in self.network.modules():
            if hasattr(module, "grid_size"):
                module.grid_size = side


def _make_buffers(network: nn.Module) -> None:
    """Turns tensors that modules of `network` have as plain attributes into buffers, such as VideoMAE's table of
    positions. Buffers move to the device with the network, once. Plain attributes would move in each call.
    """
    for module in network.modules():
        for name, value in [*vars(module).items()]:
            if isinstance(value, Tensor):
                delattr(module, name)
                module.register_buffer(name, value, persistent=False)


def build(folder: ModelFolder) -> nn.Module:
    """Builds the network of `folder` with random weights, drawn from torch's global generator, and returns it.

    Raises WeightsError if transformers refuses a value of `config.json`.
    """
    network_class, config = classes(folder)
    with refusals(folder.path, folder.family.network):
        network: nn.Module = network_class(config)
    return network


def pretrained(folder: ModelFolder) -> TransformersNetwork:
    """Loads the network of `folder` with the weights in its files, in float32, and returns it.

    Raises WeightsError if the files are missing or damaged, or if a tensor is missing, unknown or of another shape.
    """
    family = folder.family
    network_class, config = classes(folder)
    network = load_network(folder.path, network_class, config, left_out=family.left_out, unneeded=family.unneeded)
    return TransformersNetwork(folder, network)


def classes(folder: ModelFolder) -> tuple[Any, Any]:
    """Returns (class, config) of the network of `folder`: the class in transformers, and the object with its config.

    Raises UsageError if transformers is not installed or too old. Raises WeightsError if transformers refuses a value
    of `config.json`.
    """
    family = folder.family
    return class_and_config(folder.path, family.module, family.network, family.config, folder.config)
