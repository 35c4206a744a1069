"""In which words tasks are asked for: those written by hand, paraphrases of them, or names of tasks alone."""

HAND, SIMPLE, EMBEDDED = "hand", "simple", "embedded"
WORDINGS = (HAND, SIMPLE, EMBEDDED)  # anything else is the path of a bank
