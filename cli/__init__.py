"""The command line: options from arguments and JSON files and back, checks of options, launching, doctor."""
