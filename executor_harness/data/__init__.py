"""What a program works on: inputs as handles, and variables that survive it."""
