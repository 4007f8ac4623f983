"""The tests' stand-in for the Hub, for a benchmark: to be imported before the Hub's client is."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from hub.stand_in import stand_in

HUB = stand_in()
