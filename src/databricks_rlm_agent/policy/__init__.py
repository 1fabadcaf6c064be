"""The policy: what a generated program would do, judged from its text before it runs. Pure."""
