"""`make bench`: the speed goals, each as a ratio to a floor of this machine measured in the same minute."""
