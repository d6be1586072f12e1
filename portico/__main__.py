"""The `portico` command: the management command line, and the lab where it is installed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from portico.management.cli.app import app, wanted


def main() -> None:
    """Entry point of `portico` and `python -m portico`."""
    if wanted("lab") and find_spec("portico.lab.cli") is not None:
        lab = import_module("portico.lab.cli").app
        app.add_typer(lab, name="lab", help="Whole deployments in network namespaces on this machine.")
    app(prog_name="portico")


if __name__ == "__main__":
    main()
