"""Finds classes whose videos show another class if they are mirrored. Torch-free."""

import re
from collections.abc import Iterable

SIDE = re.compile(r"(?<![a-z])(left|right)(?!over)")


def sided_classes(class_names: Iterable[str]) -> list[str]:
    """Returns the class names that have the word `left` or `right`, such as `Pushing something from left to right`."""
    return [name for name in class_names if SIDE.search(name.lower())]
