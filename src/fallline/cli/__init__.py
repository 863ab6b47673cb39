"""The command `fallline`: parse arguments, call the library and print results."""

import sys


def main() -> None:
    """Run the command line, or print how to install the extra `lab` if it is missing."""
    try:
        from fallline.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("fallline", "torch"):
            raise
        sys.exit(f'fallline: the command line needs {error.name}; install it with: pip install "fallline[lab]"')
    sys.exit(run())
