"""One signed byte per evaluation: shared-seed SPSA (Spall 1992; MeZO, arXiv:2305.17333) with bit-identical replicas.

A peer measures how the loss changes along +-1 noise that everyone can make from (round, slot, sample), and says the
slope as one byte. The model is a pure function of the set of bytes, whatever the order in which they come:

    arithmetic     noise, the parameters as integers, and the rule that goes from bytes to steps
    ledger         the set of signed bytes, the integers that follow from it, and both on the disk
    dissemination  how everything that was said reaches everyone, over streams to neighbours
    broker         the same over a broker
    part           all of it for one node
    ending         when it is over
    strategy       the method, and its configuration

Each knows only those above it.
"""

from p2ptrain.strategies.spsa.strategy import Spsa

__all__ = ["Spsa"]
