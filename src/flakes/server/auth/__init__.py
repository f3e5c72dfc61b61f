"""Who asks, and may they: credentials of requests, and the routes by which people sign in and out."""
