"""Tools for maintainers: the crash matrices, the count of the code base, CI."""
