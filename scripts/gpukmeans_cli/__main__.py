"""`python -m gpukmeans_cli`: the command, where it is not on the PATH."""

from gpukmeans_cli.main import run

if __name__ == "__main__":
    run()
