"""The compositions: each module here puts the parts of one process together, and nothing else does."""
