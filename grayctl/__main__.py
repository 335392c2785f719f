"""`python -m grayctl`."""

from grayctl.cli import main

main()
