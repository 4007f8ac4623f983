"""One stand-in for the whole test process, which the Hub's client in this process and its children talk to.

huggingface_hub, transformers, datasets and evaluate read HF_ENDPOINT and HF_HUB_OFFLINE when they are imported, so
`stand_in` is to be called before that: by the conftest.py at the root of the tests.
"""

import atexit
import functools
import os
import shutil
import tempfile

from hub.server import Hub

# For programs that are to reach the stand-in; the values of None are to be taken out of the environment.
TOKEN = "hf_test"
CLIENT_SETTINGS: dict[str, str | None] = {
    "HF_TOKEN": TOKEN,
    # The stand-in speaks the large-file protocol of git, not Xet.
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
    "HF_HUB_OFFLINE": None,
    "TRANSFORMERS_OFFLINE": None,
    "HF_DATASETS_OFFLINE": None,
    "HF_HUB_CACHE": None,
}


def client_environment(endpoint: str, home: str, environment: dict[str, str]) -> dict[str, str]:
    """An environment with what makes a program talk to the stand-in and keep its files under `home`."""
    settings = CLIENT_SETTINGS | {"HF_ENDPOINT": endpoint, "HF_HOME": home}
    kept = {key: value for key, value in environment.items() if key not in settings}
    return kept | {key: value for key, value in settings.items() if value is not None}


@functools.cache
def stand_in() -> Hub:
    """The stand-in of this process, which from now on is the Hub to libraries not yet imported.

    Every worker of pytest-xdist has its own: the addresses it inherits from its parent are replaced.
    """
    hub = Hub()
    home = tempfile.mkdtemp(prefix="hf_tickets_hub_")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    settings = client_environment(hub.endpoint, home, dict(os.environ))
    for key in CLIENT_SETTINGS:
        os.environ.pop(key, None)
    os.environ.update(settings)
    return hub
