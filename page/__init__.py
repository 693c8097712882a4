"""Writes the HTML report: covers of several versions side by side, scores, learning curves, commands."""
