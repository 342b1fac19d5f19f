"""Formats counts and names for messages that people read, on a terminal or in a log."""

STOPS = ". \n"
KEPT = "\n\u200c\u200d"  # line end, and two joiners that scripts of India and Iran need


def counted(count: int, noun: str, plural: str = "") -> str:
    """Returns `1 shard`, `2 shards` or `3,900 videos`. `plural` is for nouns with an irregular plural."""
    return f"{count:,} {noun if count == 1 else plural or _plural(noun)}"


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def sentence(words: object) -> str:
    """Returns `text`, the message of an error or of another program, with exactly one full stop at its end."""
    return f"{str(words).rstrip(STOPS)}."


def quoted(key: object) -> str:
    """Returns a key as text, for a path of keys. A key that is empty or blank is in quotes, because it would be
    invisible.
    """
    text = str(key)
    return text if text.strip() else repr(text)


def shown(text: str) -> str:
    """Returns the text with control characters replaced by escapes, so that a terminal does not obey them.

    Names and labels may contain escape sequences, which a terminal would obey. Line ends are not replaced.
    """
    return text if text.isprintable() else "".join(map(_shown_character, text))


def on_one_line(text: str) -> str:
    r"""Returns the text on one line, for a list or a table.

    Control characters are replaced as in `shown`, and a line end is written as `\n`.
    """
    return shown(text.replace("\n", "\\n"))


def _shown_character(character: str) -> str:
    if character.isprintable() or character in KEPT:
        return character
    return character.encode("unicode_escape", "backslashreplace").decode()
