"""Recurrent networks, Transformer and episodic retrieval behind one interface."""
