"""Run the command line as `python -m nnexp.cli`."""

from nnexp.cli.main import main

main()
