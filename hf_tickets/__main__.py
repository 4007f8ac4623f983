"""`python -m hf_tickets`, the form that `accelerate launch -m hf_tickets` runs."""

import sys

from hf_tickets.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
