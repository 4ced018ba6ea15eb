"""Commands that run for long: their memory and their open files stay what they are."""
