"""Job B: verifies one published program, runs it, and always leaves a result.

Python standard library plus pyspark (imported inside functions), Python 3.10 to 3.13. The package is
published as one file to a Volume and run as a `spark_python_task`; it imports nothing of the control
plane.
"""
