"""How a plugin ends a conversation: by a reply in the model's place. What it raises, ADK logs at length.

Imports google.adk at once: it is imported by those who are about to use it.
"""

from __future__ import annotations

from google.adk.models.llm_response import LlmResponse
from google.genai import types


def nothing_more() -> LlmResponse:
    """A reply without a call, after which nothing is asked of a desk that is closed."""
    return LlmResponse(content=types.Content(role="model", parts=[types.Part(text="(The turn is over.)")]))
