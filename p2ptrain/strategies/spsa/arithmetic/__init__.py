"""From weights to bytes and back, in integers: the same on every machine, whoever says what in which order.

noise        the +-1 vector of an evaluation, by counter; `_kernels`: compiled
lattice      the parameters as integers: updates commute, and are exact on every device
rule         what a run agrees on; slopes to bytes, bytes to integer steps
slope        one evaluation
selection    which parameters take part
working      the module that the integers are shown to
"""
