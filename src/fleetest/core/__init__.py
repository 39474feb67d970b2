"""The pure core: model, lifecycle tables, the one writer of state. No clock, socket, thread, randomness or logging."""
