"""The agent: the only part that knows google.adk. Import what is needed from its modules."""
