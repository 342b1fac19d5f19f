"""Defines the names that tensors have in files of TSN (temporal segment networks) and of its successor TSM. These
networks hold a 2D network called `base_model`.

Files come from yjxiong/tsn-pytorch and mit-han-lab/temporal-shift-module. In TSM, the name of the first convolution of
a block ends in `.net`. There are also files of BN-Inception with the names of Caffe, without `base_model`.
"""

from kinegraph.stages.weights.formats.format import Format, State

_HEADS = {r"new_fc\..+": "classifier", r"base_model\.(fc|classifier|last_linear)\..+": "classifier"}


def _flat_norms(state: State) -> State:
    """Returns `state` with the tensors of batch norms in the shape [C], for C channels. Old files of BN-Inception have
    them in the shape [1, C].
    """
    return {name: x[0] if x.ndim == 2 and x.shape[0] == 1 and "_bn." in name else x for name, x in state.items()}


TSM = Format(
    name="TSM's names",
    sign=r"base_model\.layer\d+\.\d+\.conv1\.net\.weight",
    pairs=(
        ("layer{stage}.{block}.conv1.{leaf}", "base_model.layer{stage}.{block}.conv1.net.{leaf}"),
        ("{name}", "base_model.{name}"),
    ),
    ignored=_HEADS,
    only_for="tsm_",
)
TSN = Format(
    name="TSN's names",
    sign=r"base_model\.conv1.*\.weight",
    pairs=(("{name}", "base_model.{name}"),),
    ignored=_HEADS,
    adapt=_flat_norms,
)
BN_INCEPTION = Format(
    name="Caffe's BN-Inception names",
    sign=r"conv1_7x7_s2\.weight",
    pairs=(("{name}", "{name}"),),
    ignored={r"(fc|last_linear)\..+": "classifier"},
    adapt=_flat_norms,
)
