"""`make bench`: the speed goals, each as a ratio to a floor of this machine measured in the same minute."""

from pathlib import Path

CHECKOUT = Path(__file__).parent.parent
"""Where `python -m bench.x` is found, for processes of the bench's own: the bench itself leaves for a directory of its
own, and the product must not have the checkout on its path."""
