"""What an operator asks of a coordinator over its API: one client, one shape per question, texts for terminals."""
