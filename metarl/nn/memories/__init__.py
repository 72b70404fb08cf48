"""Recurrent networks, Transformer, retrieval, Turing machine and memory network behind one interface."""
