"""One module a migration, in the order of their numbers. Released ones are never edited."""
