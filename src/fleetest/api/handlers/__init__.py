"""What each route does, one module per kind of thing; every module has ``routes(context)``."""
