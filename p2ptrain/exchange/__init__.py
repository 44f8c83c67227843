"""How vectors get from node to node, two at a time or shown to many, and how much to believe of them.

    frames       messages of an exchange as bytes
    talk         one message at a time, within deadlines, counted and checked
    decisions    both sides apply a swap or neither does
    pairwise     a swap
    statements   what a peer signs of what it shows
    offers       what a node shows to everybody: a vector, encoded once, and signed
    witness      who told different peers different things
    gather       peers show each other vectors
    rounds       the same in rounds, in which everyone waits for its neighbours
    reputation   whom to trust less, and for how long
    liar         what a node with an attack says instead of the truth

Bringing it all up is for `p2ptrain.daemon`; what a strategy sees of it is in `p2ptrain.node`.
"""
