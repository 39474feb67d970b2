"""User code in processes of its own: templates, runners, commands, and how they are started, watched and ended."""
