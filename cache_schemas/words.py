"""Formats counts and names for messages that people read, on a terminal or in a log."""

from collections.abc import Sequence

STOPS = ". \n"
KEPT = "\n\u200c\u200d"  # line end, and two joiners that scripts of India and Iran need


def counted(count: int, noun: str, plural: str = "") -> str:
    """Returns a count with its noun: `1 shard`, `2 shards`, `3,900 videos`. `plural` is needed only if the plural of
    the noun is irregular.
    """
    return f"{count:,} {noun if count == 1 else plural or _plural(noun)}"


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def size(num_bytes: float) -> str:
    """Returns `num_bytes` as text with a unit: `0 B`, `3.4 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def first_of(names: Sequence[str], most: int = 3) -> str:
    """Returns at most `most` of `names`, with commas between them. If there are more names, `, ...` follows."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def few_of(names: Sequence[str], most: int) -> str:
    """Returns at most `most` of `names`, with commas between them. If there are more names, their number follows (`and
    3 more`).
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def sentence(words: object) -> str:
    """Returns `words` with exactly one full stop at the end. `words` is a text or an error."""
    return f"{str(words).rstrip(STOPS)}."


def quoted(key: object) -> str:
    """Returns `key` as a part of a path of keys such as `store.kind`. An empty or blank key is put in quotes, because
    it would be invisible otherwise.
    """
    text = str(key)
    return text if text.strip() else repr(text)


def shown(text: str) -> str:
    """Returns `text` with control characters replaced by escapes, so that a name cannot send commands to the terminal.
    Line ends are kept.
    """
    return text if text.isprintable() else "".join(map(_shown_character, text))


def on_one_line(text: str) -> str:
    """Returns `text` on one line, for a list or a table. Control characters and line ends are replaced by escapes."""
    return shown(text.replace("\n", "\\n"))


def _shown_character(character: str) -> str:
    if character.isprintable() or character in KEPT:
        return character
    return character.encode("unicode_escape", "backslashreplace").decode()
