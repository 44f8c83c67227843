"""A broker as the carrier of a flood.

air          signed and numbered messages over a channel on which anybody may say anything
bus          one node there: what it says to all, and to whom it talks alone
"""
