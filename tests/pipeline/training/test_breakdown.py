from pathlib import Path

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.data_set_documents import write_attributes
from kinegraph.pipeline.training.breakdown import AttributeScore, by_attribute, read_attributes
from kinegraph.stages.errors import UsageError

CLASSES = ("open", "close", "sit", "run")
AVERAGE_PRECISION = {"open": 0.5, "close": 0.25, "sit": 1.0}  # run has no positive


def test_classes_are_averaged_by_attribute(tmp_path: Path) -> None:
    table = tmp_path / "attributes.csv"
    table.write_text("class,has object,pose\nopen,yes,\nclose,yes,standing\nsit,no,sitting\nrun,no,running\n")
    assert by_attribute(AVERAGE_PRECISION, read_attributes(table, CLASSES)) == [
        AttributeScore(attribute="has object", value="no", num_classes=1, score=1.0),
        AttributeScore(attribute="has object", value="yes", num_classes=2, score=0.375),
        AttributeScore(attribute="pose", value="sitting", num_classes=1, score=1.0),
        AttributeScore(attribute="pose", value="standing", num_classes=1, score=0.25),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a header class,<attribute>"),
        ("class\nopen\n", "expected a header class,<attribute>"),
        ("name,pose\nopen,x\n", "expected a header class,<attribute>"),
        ("class,pose\nopen,x\nfly,y\n", "line 3: 'fly' is no class of the cache"),
        ("class,pose\nopen,x\nopen,y\n", "line 3: class 'open' stands there twice"),
        ("class,pose\nopen,x,y\n", "line 2 has more cells than the header"),
    ],
)
def test_wrong_tables_are_refused(text: str, said: str, tmp_path: Path) -> None:
    table = tmp_path / "attributes.csv"
    table.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_attributes(table, CLASSES)
    with pytest.raises(UsageError, match="cannot be read"):
        read_attributes(tmp_path / "none.csv", CLASSES)


def test_attributes_of_the_cache(whole: Cache, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"class_attributes.csv does not exist.*Else give a csv"):
        read_attributes("cache", CLASSES, whole.root)
    write_attributes(whole.storage, {"open": {"object": "a door, or a box", "verb": "open"}})
    assert read_attributes("cache", CLASSES, whole.root) == {"open": {"object": "a door, or a box", "verb": "open"}}
