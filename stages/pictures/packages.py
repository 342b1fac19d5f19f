"""Checks that the optional packages of figures and pages are installed. Imports none of them."""

from importlib.util import find_spec

from kinegraph.stages.errors import UsageError

PACKAGES = {"matplotlib": "matplotlib", "jinja2": "Jinja2"}


def require_look() -> None:
    """Raises UsageError if matplotlib or Jinja2 is missing, the packages of the extra `kinegraph[look]`. The message
    says how to install it.
    """
    if missing := [name for module, name in PACKAGES.items() if find_spec(module) is None]:
        raise UsageError(f"Figures need {' and '.join(missing)}: pip install 'kinegraph[look]'")
