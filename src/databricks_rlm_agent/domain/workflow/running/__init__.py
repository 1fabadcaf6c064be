"""What became of it: ends of loops, errors, what has taken effect, and what to do next. Pure values."""
