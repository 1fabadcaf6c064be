"""From the files of a directory to a plan. Pure."""
