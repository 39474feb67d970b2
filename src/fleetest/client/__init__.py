"""The client side: submits a run, follows it, reports it."""
