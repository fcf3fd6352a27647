"""View models: what is known, as cells and lines. Pure: no terminal, no clock, no cloud.

Everything that comes from outside is cleaned here, where it becomes a cell or a line.
"""
