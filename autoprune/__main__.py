"""`python -m autoprune`: tells what commands there are, and runs one: `python -m autoprune search`."""

import difflib
import sys

from autoprune import __version__, cli


def main() -> int:
    """The command `autoprune`.

    Returns:
        The exit code.
    """
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in cli.ABOUT:
        sys.argv[1:] = arguments
        return cli.run_command(command)
    if command == "--version":
        sys.stdout.write(f"autoprune {__version__}\n")
        return 0
    lines = [f"  python -m autoprune.{name:<9} {about}" for name, about in cli.ABOUT.items()]
    listed = "\n".join(["Commands, each with --help for its options:", *lines])
    if command in ("--help", "-h"):
        sys.stdout.write(
            f"autoprune {__version__}: smaller Keras models by reinforcement learning, fast on a TPU.\n\n{listed}\n\n"
            "Installed, `autoprune search` is the same as `python -m autoprune.search`.\n"
        )
        return 0
    near = difflib.get_close_matches(command, cli.ABOUT, n=1)
    guess = f" Did you mean {near[0]}?" if near else ""
    sys.stderr.write(f"There is no command '{command}'.{guess}\n\n{listed}\n")
    return cli.REFUSED


if __name__ == "__main__":
    sys.exit(main())
