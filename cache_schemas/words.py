"""Formats counts and names for messages that people read, on a terminal or in a log."""

STOPS = ". \n"
KEPT = "\n\u200c\u200d"  # line end, and two joiners that scripts of India and Iran need


def counted(count: int, noun: str, plural: str = "") -> str:
    """Returns `1 shard`, `2 shards` or `3,900 videos`. `plural` is for nouns with an irregular plural."""
    return f"{count:,} {noun if count == 1 else plural or _plural(noun)}"


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def sentence(words: object) -> str:
    """An error, or words of somebody else, with one full stop at their end."""
    return f"{str(words).rstrip(STOPS)}."


def quoted(key: object) -> str:
    """A key as a part of a path of keys: in quotes where nobody would see it."""
    text = str(key)
    return text if text.strip() else repr(text)


def shown(text: str) -> str:
    """Returns the text without characters that a terminal would obey. Names and labels may contain escape sequences.

    Line ends stay.
    """
    return text if text.isprintable() else "".join(map(_shown_character, text))


def on_one_line(text: str) -> str:
    r"""Returns the text for a line of a list or a cell of a table: without escape sequences, line ends written as
    `\n`.
    """
    return shown(text.replace("\n", "\\n"))


def _shown_character(character: str) -> str:
    if character.isprintable() or character in KEPT:
        return character
    return character.encode("unicode_escape", "backslashreplace").decode()
