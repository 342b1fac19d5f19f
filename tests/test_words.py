"""One word has one meaning in the house, and docstrings are sentences that a stranger reads at once."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ["cache_schemas", "stages", "pipeline", "cli", "kinegraph"]
FILES = sorted(
    path for room in ROOMS for path in (ROOT / room).rglob("*.py") if not any(p.is_symlink() for p in path.parents)
)

# Two types of one name, and why both keep it. Aliases with the same definition are one thing and need no entry.
SAME_NAME = {
    "Attention": "rstg.py and trg.py: each is the attention of its paper, used in its file alone",
    "Clips": "the kind of stage has the name of its key; training/clips.py has the clips of a training run",
    "Proposals": "the kind of stage has the name of its key; selection.py has the boxes of one clip",
    "Regions": "the kind of stage has the name of its key; heads/inputs.py has the module that reads them",
}

# What readers stumbled over, each with the words to use. A pattern holds in every docstring.
NO_SUBJECT = r"\A(Of|Where|What|Whether|Which|How|Who|Whose|In|By|For|None|Those|That|With|As|If|Else)\b"
HOUSE_WORDS = {
    NO_SUBJECT: "begin with a subject, or with the verb of the function",
    r"\bgives\b": "returns, yields, writes",
    r"\b(is|are) told\b": "returns, logs, is called with",
    r"\b(is|are) looked at\b": "is checked, is read",
    r"\bworths\b": "name the values",
    r"\bcomputed here\b": "name the place",
    r"\b(theirs|one's)\b": "name the owner",
    r"\bof it went\b|\bfor who\b|\bthose that it\b": "name the thing",
}


MOST_LISTED = 5  # fields that a docstring may list; people read the docstrings of public classes with help()


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """(name, docstring) of the module and of every class and function in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield getattr(node, "name", "module"), ast.get_docstring(node) or ""


def types(path: Path) -> Iterator[tuple[str, str]]:
    """(name, definition) of the classes and type aliases of a module. The definition of a class is its place."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            yield node.name, f"{path.relative_to(ROOT)}"
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, words = node.targets[0].id, ast.unparse(node.value)
            if re.fullmatch(r"_?[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*", name) and "TypeVar(" not in words:
                yield name, words


def test_a_type_name_means_one_thing() -> None:
    definitions: dict[str, set[str]] = {}
    for path in FILES:
        for name, definition in types(path):
            definitions.setdefault(name, set()).add(definition)
    several = {name for name, found in definitions.items() if len(found) > 1}
    assert several - SAME_NAME.keys() == set(), "give one of the two another name, or say here why both keep it"
    assert SAME_NAME.keys() - several == set(), "these names mean one thing by now"
    assert all(SAME_NAME.values())


def fields_listed(node: ast.ClassDef) -> set[str]:
    """The fields of a class that its docstring lists, one on a line."""
    fields = {
        item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    return {name for name in fields if re.search(rf"^(- )?`{name}`.*:", ast.get_docstring(node) or "", re.MULTILINE)}


def test_facts_about_fields_stand_beside_the_fields() -> None:
    long = ast.parse(
        'class A:\n    """An A.\n\n    - `b`: a.\n    - `c`: b.\n    """\n    b: int\n    c: int\n    d: int'
    )
    assert fields_listed(next(node for node in long.body if isinstance(node, ast.ClassDef))) == {"b", "c"}
    lists = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and not node.name.endswith("Options")
        and len(fields_listed(node)) > MOST_LISTED
    ]
    assert lists == [], "write a comment at each field; the docstring says what one object is"


def test_docstrings_have_no_house_words() -> None:
    """The patterns find what they are for; no docstring has any of them."""
    assert re.search(NO_SUBJECT, "Of the last shard.")
    assert not re.search(NO_SUBJECT, "Returns the last shard.")
    assert len(FILES) > 300
    stumbles = [
        f"{path.relative_to(ROOT)}: {name}: {match[0]!r}, better: {better}"
        for path in FILES
        for name, text in docstrings(path)
        for pattern, better in HOUSE_WORDS.items()
        if (match := re.search(pattern, text))
    ]
    assert stumbles == []
