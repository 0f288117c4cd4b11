"""Who is it, and may they: tokens, passwords, sessions, whom the primary let in. Used by admin and proxy."""
