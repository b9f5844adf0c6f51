"""`python -m gpukmeans_cli`: the command without an installed script."""

from gpukmeans_cli.main import run

if __name__ == "__main__":
    run()
