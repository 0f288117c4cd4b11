"""Who may do what: `tokens` for the admin door. Used by admin, proxy and archive."""
