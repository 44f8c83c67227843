"""What was said, and what follows from it, for one peer, without network and clock.

batch        bytes of one peer, signed
book         the set of bytes
master       the lattice that follows the book
log          signed batches on the disk
snapshot     the master in one file
roster       whose key may say bytes of which slot
life         numbers that grow from start to start
audit        do two peers have the same, and where do they differ
finals       last words
records      batches in a message
replica      all of a peer's part in it: it evaluates, signs and keeps, and follows everybody
"""
