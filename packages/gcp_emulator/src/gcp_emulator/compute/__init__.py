"""Compute Engine v1: what exists, what moves it, its REST interface, and the metadata servers."""
