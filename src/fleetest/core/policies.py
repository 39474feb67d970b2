"""The seams of the policies. They propose; the core decides and refuses what is stale. All are pure."""
