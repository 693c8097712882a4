"""Draws covers with a version of a run: version lookup, drawing settings, folders of covers, grids."""
