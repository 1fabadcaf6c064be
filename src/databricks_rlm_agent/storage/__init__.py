"""State in Delta tables: typed rows, named SQL, migrations, compare-and-set."""
