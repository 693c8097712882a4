"""Studies made with the scripts: training regimes, the transfer comparison, the sampling curve."""
