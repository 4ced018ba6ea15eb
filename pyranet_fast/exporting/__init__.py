"""Export to other runtimes: writing, quantizing and checking files."""
