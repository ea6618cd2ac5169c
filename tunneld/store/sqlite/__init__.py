"""The store in an SQLite file: `file` holds the tables, `store` answers."""
