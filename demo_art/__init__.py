"""Book covers drawn by code for the demo data. jacket.draw_cover is the way in."""
