"""Defines one version number per stage. The fingerprint of the stage covers the number.

Raise the number when the output of the stage changes beyond rounding.
"""

FEATURES_VERSION = 1
PROPOSALS_VERSION = 1
REGIONS_VERSION = 1
GRAPHS_VERSION = 1
IMPORTS_VERSION = 1
