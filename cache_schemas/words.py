"""How counts and names are put into messages: for people, on a terminal or in a log."""

KEPT = "\n\u200c\u200d"  # two that scripts of India and Iran spell with


def counted(count: int, noun: str, plural: str = "") -> str:
    """`1 shard`, `2 shards`, `3,900 videos`; `plural` is given where it is another than by the rule."""
    return f"{count:,} {noun if count == 1 else plural or _plural(noun)}"


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def shown(text: str) -> str:
    """The text without what a terminal would obey: names and labels may hold escape sequences. Line ends stay."""
    return text if text.isprintable() else "".join(map(_shown_character, text))


def on_one_line(text: str) -> str:
    """A name, or words with one in them, as a line of a list or a cell of a table."""
    return shown(text.replace("\n", "\\n"))


def _shown_character(character: str) -> str:
    if character.isprintable() or character in KEPT:
        return character
    return character.encode("unicode_escape", "backslashreplace").decode()
