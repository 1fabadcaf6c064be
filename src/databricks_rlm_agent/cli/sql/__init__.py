"""``sql plan`` and ``sql run``: what they print, draw and ask."""
