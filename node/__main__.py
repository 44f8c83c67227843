"""`python -m node` is `p2ptrain`."""

from node.cli import main

main()
