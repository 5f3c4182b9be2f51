"""The verbs of the command line by subject: each reads its words, calls one stage and says what to type next."""
