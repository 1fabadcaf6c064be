"""What stands around every conversation with a model: ADK plugins, one concern each."""
