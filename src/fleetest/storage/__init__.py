"""History: the DuckDB database of everything that was ever run, a projection that no live run depends on."""
