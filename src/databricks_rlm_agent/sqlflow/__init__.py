"""SQL workflows: a directory of SQL, planned, run to convergence, recorded and reported."""
