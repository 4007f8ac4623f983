"""Several runs that belong together: transfers and controls."""
