"""Has the table of all heads by name, and builds a head for the arrays of a cache."""

from typing import Any

from pydantic import ValidationError

from kinegraph.cache_schemas.documents import said
from kinegraph.stages.heads.atr import Atr
from kinegraph.stages.heads.attentive_probe import AttentiveProbe
from kinegraph.stages.heads.avg_pool import AvgPool
from kinegraph.stages.heads.candidates import CandidateHead
from kinegraph.stages.heads.conv3d import Conv3dHead
from kinegraph.stages.heads.conv_lstm import ConvLstm
from kinegraph.stages.heads.head import Head, HeadError, HeadOptions, Spec, TapOptions, are_videos
from kinegraph.stages.heads.inputs import TapMissing
from kinegraph.stages.heads.linear_probe import LinearProbe
from kinegraph.stages.heads.lstm import Lstm
from kinegraph.stages.heads.mlp import Mlp
from kinegraph.stages.heads.non_local import NonLocalHead
from kinegraph.stages.heads.own import OwnHead, build_own_head, is_own
from kinegraph.stages.heads.proposal_pool import ProposalPool
from kinegraph.stages.heads.rstg import Rstg
from kinegraph.stages.heads.st_sgn import RelationMatrix, StSgn
from kinegraph.stages.heads.strg import Strg
from kinegraph.stages.heads.tail import MakeNetwork, build_tail, parse_tail, random_backbone, trained_backbone
from kinegraph.stages.heads.tailed import TailedHead, sentence_on_arrays, spec_above
from kinegraph.stages.heads.trg import Trg
from kinegraph.stages.heads.trn import Trn

HEADS: dict[str, type[Head]] = {
    "avg_pool": AvgPool,
    "proposal_pool": ProposalPool,
    "mlp": Mlp,
    "lstm": Lstm,
    "conv_lstm": ConvLstm,
    "conv3d": Conv3dHead,
    "trn": Trn,
    "non_local": NonLocalHead,
    "strg": Strg,
    "trg": Trg,
    "atr": Atr,
    "rstg": Rstg,
    "st_sgn": StSgn,
    "relation_matrix": RelationMatrix,
    "linear_probe": LinearProbe,
    "attentive_probe": AttentiveProbe,
}


def build_head(name: str | OwnHead, spec: Spec, num_classes: int, **options: Any) -> Head:
    """Returns a new head for clips whose cached arrays have the shapes `spec`. Torch's global random number generator
    draws the first weights.

    - `name`: a name in `HEADS`, such as "strg", or "<file>.py:<class>" for a head that the user wrote. The code of this
      file is run.
    - `spec`: {name of the array: shape of one clip}, such as {"features/i3d/res5_pooled": (16, 2048)}. For whole
      videos, it is the result of `spec_of_videos`.
    - `num_classes`: the number of classes.
    - `options`: the options of the head. `backbone` and `tap` choose the arrays if the cache has several taps. `tail`
      puts a tail before the head: the layers of the backbone above a cached tap, with the weights of the backbone's
      checkpoint.

    Raises HeadError if the name or an option is not allowed, if an array is missing, or if several taps fit. Raises
    WeightsError if the checkpoint of a tail cannot be found or read.
    """
    return _build(name, spec, num_classes, options, trained_backbone)


def rebuild_head(name: str | OwnHead, spec: Spec, num_classes: int, options: dict[str, Any]) -> Head:
    """Returns a head with random weights, into which the caller loads the weights of a trained run. The arguments are
    those of `build_head`, which the run was built with.

    If the head has a tail (layers of the backbone above a cached tap), the backbone's checkpoint is not read. Raises
    HeadError if `options` or the arrays do not fit the head.
    """
    return _build(name, spec, num_classes, options, random_backbone)


def _build(name: str | OwnHead, spec: Spec, num_classes: int, options: dict[str, Any], make: MakeNetwork) -> Head:
    if isinstance(name, str) and is_own(name):
        name = OwnHead.read(name)
    if isinstance(name, str) and name not in HEADS:
        raise HeadError(f"There is no head {name!r}; there are: {', '.join(HEADS)}, and yours as `file.py:Class`.")
    if num_classes < 1:
        raise HeadError(f"num_classes is {num_classes}; a head needs at least 1 class.")
    if are_videos(spec):
        _require_sequences(name, options)
    tail_options, others = parse_tail(options), {key: value for key, value in options.items() if key != "tail"}
    if tail_options is None:
        return _plain(name, spec, num_classes, others)
    if issubclass(_class_of(name), CandidateHead):
        raise HeadError(f"tail: allowed: none with {name}, because all its candidates would train one tail together.")
    tail = build_tail(spec, tail_options, make)
    try:
        head = _plain(name, spec_above(spec, tail), num_classes, others)
    except TapMissing as error:  # a tail hides the tap, or the tap is not cached; extracting it would not help
        raise HeadError(f"Head {name} does not read what the tail makes. {sentence_on_arrays(tail)}") from error
    return TailedHead(tail, head, tail_options)


def _require_sequences(name: str | OwnHead, options: dict[str, Any]) -> None:
    """Raises HeadError if the head `name` with `options` cannot classify whole videos, which have any number of
    windows.
    """
    if options.get("tail") is not None:
        raise HeadError("tail: allowed: none with train.over: videos, because a tail reads maps of frames.")
    if not _class_of(name).reads_sequences:
        problem = f"Head {name} reads clips of one length, not whole videos of any length (train.over: videos)."
        able = [other for other, of_other in HEADS.items() if of_other.reads_sequences]
        own = " A head of your own can if its class says `reads_sequences = True`." if isinstance(name, OwnHead) else ""
        raise HeadError(f"{problem} These heads read videos: {', '.join(able)}.{own}")


def _class_of(name: str | OwnHead) -> type[Head]:
    return HEADS[name] if isinstance(name, str) else name.head_class()


def _plain(name: str | OwnHead, spec: Spec, num_classes: int, options: dict[str, Any]) -> Head:
    """Returns a new head with the name `name` for cached arrays with the shapes `spec`. The head has no tail, so no
    layers of a backbone run before it.
    """
    if isinstance(name, OwnHead):
        kind = name.head_class()
        parsed = _parsed(name.class_name, kind.option_model, options)
        head = build_own_head(kind, spec, num_classes, parsed)
    else:
        parsed = parse_options(name, options)
        head = HEADS[name](spec, num_classes, parsed)
    head.name, head.num_classes = str(name), num_classes
    head.options = parsed.recorded()
    if isinstance(parsed, TapOptions):
        head.options |= {"backbone": head.source.backbone, "tap": head.source.tap}
    return head


def parse_options(name: str, options: dict[str, Any]) -> HeadOptions:
    """Returns the options of the head `name` as an object of its options class, with the values of the dictionary
    `options`. All other options have their defaults.

    Raises HeadError if an option does not exist or has a wrong value. The message lists the allowed options or values.
    """
    return _parsed(name, HEADS[name].option_model, options)


def _parsed(name: str, model: type[HeadOptions], options: dict[str, Any]) -> HeadOptions:
    try:
        return model(**options)
    except ValidationError as error:
        problems = [_problem(model, details["loc"][0], details) for details in error.errors()]
        raise HeadError(f"Head {name}: {'; '.join(problems)}.") from error


def _problem(model: type[HeadOptions], option: Any, details: Any) -> str:
    if option not in model.model_fields:
        return f"there is no option {option!r}; there are: {', '.join(model.model_fields)}"
    return f"option {option} is {details['input']!r}: {said(details)}"
