"""Lists the scores that papers report for their heads. The table of heads shows them. Torch-free.

The papers measured on other data sets, so their scores are no target for a user's data. docs/papers.md lists every row
of every table, and a test compares it with this file.
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
    """Returns the score that the paper of a head reports, as a text such as "Charades mAP 31.8 (I3D)". Returns "-" if
    no score is known. `head` is the name of the head, and `options` are its options.
    """
    graphs = options.get("graphs", "joint") if head == "strg" else ""
    score = PUBLISHED.get(f"{head} {graphs}".strip())
    return f"{score} ({WHOSE[head]})" if score else "-"
