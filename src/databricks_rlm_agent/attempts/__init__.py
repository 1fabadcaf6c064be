"""Attempts: manifest, submission, the Jobs API's verdict, and the result. Pure values."""
