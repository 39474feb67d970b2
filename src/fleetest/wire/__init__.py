"""Messages between our own processes: typed, tagged, versioned, decoded once at the edge."""
