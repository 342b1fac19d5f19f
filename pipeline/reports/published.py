"""The published scores of heads of papers, for the table of heads. Torch-free.

The scores were measured on the data sets of the papers. They are no target on other data. docs/papers.md lists
every row of every table. A test compares the two.
"""

from collections.abc import Mapping
from typing import Any

PUBLISHED = {
    "avg_pool": "Charades mAP 31.8",
    "proposal_pool": "Charades mAP 32.1",
    "strg similarity": "Charades mAP 35.0",
    "strg spatial_temporal": "Charades mAP 34.2",
    "strg joint": "Charades mAP 36.2",
    "trg": "Charades mAP 40.2",
    "atr": "Something-Something V2 top-1 59.6",
}
WHOSE = {
    "avg_pool": "I3D",
    "proposal_pool": "I3D, 50 boxes",
    "strg": "I3D, 50 boxes",
    "trg": "ResNet-101, 32 frames",
    "atr": "TSN-R50, stages 3 to 5",
}


def published(head: str, options: Mapping[str, Any]) -> str:
    """Returns the score that the paper of a head reports, as a text such as `Charades mAP 31.8 (I3D)`, or "-" if no
    score is known. `head` is the name of the head, and `options` are its options.
    """
    graphs = options.get("graphs", "joint") if head == "strg" else ""
    score = PUBLISHED.get(f"{head} {graphs}".strip())
    return f"{score} ({WHOSE[head]})" if score else "-"
