"""Files of every format with something changed in them: a sentence, never a traceback, a crash or a hang."""
