"""One integer per stage, part of its fingerprint: raise it when its output changes beyond rounding."""

FEATURES_VERSION = 1
PROPOSALS_VERSION = 1
REGIONS_VERSION = 1
GRAPHS_VERSION = 1
IMPORTS_VERSION = 1
