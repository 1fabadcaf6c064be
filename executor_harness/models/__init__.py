"""Model calls of a program: asked through a serving endpoint, metered, journaled, and answered once."""
