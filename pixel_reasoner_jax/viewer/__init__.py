"""The viewer: evaluations, runs, data sets and answers as a folder that a browser opens without a server."""
