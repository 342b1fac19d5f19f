"""`python -m kinegraph` runs the command `kinegraph`. The process installs its signal handlers before it imports
modules that are slow to import.
"""

import sys

try:
    from kinegraph.cache_schemas import stopping
    from kinegraph.cli.streams import open_standard_streams
except KeyboardInterrupt:  # Python's own, for as long as no signal is obeyed
    sys.exit(130)


def main() -> None:
    """Runs the command `kinegraph` and ends the process with the exit code of the command."""
    open_standard_streams()
    stopping.obey()
    try:
        from kinegraph.cli.app import main as run

        run()
    except KeyboardInterrupt as stop:  # each import is a safe point, those of typer too, which show wrong usage
        from kinegraph.cli.exits import end_process, stopped

        end_process(stopped(type(stop)))


if __name__ == "__main__":
    main()
