"""Links: ordered, reliable message channels between our processes, in memory or over WebSocket."""
