"""Three tasks that run on a laptop: see the README of each folder."""
