"""`python -m cli` is the command `kinegraph`."""

from cli.app import main

if __name__ == "__main__":
    main()
