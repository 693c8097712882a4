"""Command line and saved JSON <-> options; checks across options; launching."""
