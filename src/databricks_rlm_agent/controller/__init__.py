"""The controller: the loop, its tick, and the effects of one iteration in order."""
