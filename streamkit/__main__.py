"""`python -m streamkit`."""

from streamkit.cli import main

main()
