"""Which synthetic pairs are good enough to learn from?

ranges     how far a number may lie from what real cases show
selector   a case -> accepted, or rejected with reasons in words
quest      draws cases until enough are accepted, and stops when that is hopeless
"""
