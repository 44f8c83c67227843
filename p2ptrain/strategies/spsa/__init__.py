"""One signed byte per evaluation: shared-seed SPSA (Spall 1992; MeZO, arXiv:2305.17333) with bit-identical replicas.

A peer measures how the loss changes along +-1 noise that everyone can make from (round, slot, sample), and says the
slope as one byte. The model is a pure function of the set of bytes, whatever the order in which they come:

    noise        the +-1 vector of an evaluation, by counter
    lattice      the parameters as integers: updates commute, and are exact on every device
    rule         what a run agrees on; bytes to integer steps
    book         the set of bytes
    master       the lattice that follows the book
    batch, log   bytes signed, sent, and kept on the disk
    audit        do two peers have the same, and where do they differ
    selection    which parameters take part
    replica      all of it for one peer, without network and clock

and what carries them:

    roster       whose key may say bytes of which slot
    link         one stream to a neighbour
    dialling     to whom there are streams
    air, bus     a broker in place of streams
    telling      what is said unasked
    hearing      what is done with what comes
    repair       what got lost
    horizon      what is closed, and is to be the same everywhere
    presence     who takes part
    finals       last words
    flood        all of that: everything reaches everyone
    donor        snapshots for newcomers
    working      the module that the integers are shown to
    part         all of it for one node
    ending       when it is over
    strategy     the method, and its configuration
"""

from p2ptrain.strategies.spsa.strategy import Spsa

__all__ = ["Spsa"]
