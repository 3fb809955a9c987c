"""``python -m diffatlas``: the command line where no script is on the path."""

from diffatlas.cli import main

main()
