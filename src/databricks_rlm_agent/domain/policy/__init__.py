"""What generated code may do, judged from its text before it runs."""
