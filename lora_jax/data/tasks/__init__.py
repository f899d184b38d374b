"""The tasks, one family a module; each has a function `load` that returns a `Task`."""
