"""From files to a plan: loops, order, what a person should know of it, and which part is to run. Pure."""
