"""Where traffic goes:

the machine that decides, the state that survives, the board that tells the data path.
"""
