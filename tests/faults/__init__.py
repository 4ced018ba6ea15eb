"""Commands that are killed at a random moment and run again: nothing is lost, and the results are the same bits."""
