"""Everything that was said reaches everyone, over any connected graph, whatever gets lost.

link         one stream to a neighbour
carrier      what may be there in place of streams
dialling     to whom there are streams
complaints   what is wrong with others, said once in a while
telling      what is said unasked
hearing      what is done with what comes
repair       what got lost
horizon      what is closed, and is to be the same everywhere
presence     who takes part
settled      what should have come by now
flood        all of that
donor        snapshots for newcomers
"""
