"""A process that imports this first collects no garbage until it says so: what it imports is none, and passes over it
take a third of the time."""

import gc

gc.disable()
