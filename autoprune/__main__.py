"""`python -m autoprune`: tells what commands there are, and runs one: `python -m autoprune search`.

`python -m autoprune completion` prints what makes a shell complete them.
"""

import difflib
import sys

from autoprune import __version__, cli
from autoprune.option_help import completion_script


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
    if command == "completion":
        sys.stdout.write(completion_script(list(cli.ABOUT)))
        return 0
    lines = [f"  {name:<9} {about}\n            {cli.EXAMPLES[name]}" for name, about in cli.ABOUT.items()]
    listed = "\n".join(["Commands, each with --help for its options:", *lines])
    if command in ("--help", "-h"):
        sys.stdout.write(
            f"autoprune {__version__}: smaller Keras models by reinforcement learning, fast on a TPU.\n\n{listed}\n\n"
            "Installed, `autoprune search` is the same as `python -m autoprune.search`, and\n"
            'eval "$(autoprune completion)" makes a shell complete it. Exit codes: 0, done; 2, something you can\n'
            "mend; 1, a fault of autoprune; 130, ended by Ctrl-C.\n"
        )
        return 0
    near = difflib.get_close_matches(command, cli.ABOUT, n=1)
    guess = f" Did you mean {near[0]}?" if near else ""
    sys.stderr.write(f"There is no command '{command}'.{guess}\n\n{listed}\n")
    return cli.REFUSED


if __name__ == "__main__":
    sys.exit(main())
