"""Defines vocabularies of scene graphs: the names of the classes of objects, and the names of the relations. Imports no
torch.

The cache stores a number for each name, which is the position of the name in its list, counted from 0.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from kinegraph.cache_schemas.regular import CONFIG_BYTES, read_regular
from kinegraph.stages.options import StageOptions


def plain(name: str) -> str:
    """Returns the form of `name` in which two names are compared: in lower case, without blanks and without the signs /
    _ -. For example, "Cup/glass/bottle" -> "cupglassbottle".
    """
    return "".join(letter for letter in name.lower() if letter not in "/_- ")


class Vocabulary(StageOptions):
    """The names of the classes of objects and of the relations in scene graphs. The number of a name is its position in
    its list, counted from 0. Relations in `ignored_relations` may occur in files and are not cached.

    A name must not occur twice in `classes`. It must not occur twice in `relations` and `ignored_relations` together.
    Two names that differ only in case, blanks or the signs / _ - count as the same name.
    """

    classes: tuple[str, ...] = Field(
        min_length=1, description="names of the objects' classes, the person's class included"
    )
    relations: tuple[str, ...] = Field(min_length=1, description="names of relations of an object to the person")
    ignored_relations: tuple[str, ...] = Field((), description="relations in the files that are left out")

    @model_validator(mode="after")
    def _names_differ(self) -> "Vocabulary":
        for key, names in (("classes", self.classes), ("relations", self.relations + self.ignored_relations)):
            if len({plain(name) for name in names}) < len(names):
                raise ValueError(f"{key}: given {[*names]}, allowed: each name once")
        return self


# Ji et al. 2020, "Action Genome": the lines of object_classes.txt and relationship_classes.txt.
_CLASSES = (
    "person bag bed blanket book box broom chair closetcabinet clothes cupglassbottle dish door doorknob doorway floor "
    "food groceries laptop light medicine mirror papernotebook phonecamera picture pillow refrigerator sandwich shelf "
    "shoe sofacouch table television towel vacuum window"
)
_RELATIONS = (
    "lookingat notlookingat unsure above beneath infrontof behind onthesideof in carrying coveredby drinkingfrom "
    "eating haveitontheback holding leaningon lyingon notcontacting otherrelationship sittingon standingon touching "
    "twisting wearing wiping writingon"
)
_OTHER = "otherrelationship"  # the 26th relation of Action Genome's file; its paper and ST-SGN count 25
NAMED = {
    "action_genome": Vocabulary(
        classes=tuple(_CLASSES.split()),
        relations=tuple(name for name in _RELATIONS.split() if name != _OTHER),
        ignored_relations=(_OTHER,),
    ),
    "action_genome_26": Vocabulary(classes=tuple(_CLASSES.split()), relations=tuple(_RELATIONS.split())),
}


def resolve_vocabulary(given: Any) -> Any:
    """Returns the vocabulary for `given`, the value of the option `vocabulary`. If `given` is the name of a shipped
    vocabulary, such as "action_genome", returns this vocabulary. If it is the path of a json file, returns the content
    of the file without checking it.

    Raises ValueError if `given` is another string. A `given` that is not a string is returned unchanged.
    """
    if not isinstance(given, str):
        return given
    if given in NAMED:
        return NAMED[given]
    try:
        return json.loads(read_regular(given, CONFIG_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        allowed = f"{', '.join(NAMED)}, or a json file (looked from {Path.cwd()}: {error})"
        raise ValueError(f"vocabulary: given {given!r}, allowed: {allowed}") from error
