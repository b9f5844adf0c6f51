"""The cells engine, for few coordinates on a CPU: boxes of near points, each with a short list of candidate centers."""
