"""One integer per stage is part of the stage's fingerprint.

Raise it when the stage's output changes beyond rounding.
"""

FEATURES_VERSION = 1
PROPOSALS_VERSION = 1
REGIONS_VERSION = 1
GRAPHS_VERSION = 1
IMPORTS_VERSION = 1
