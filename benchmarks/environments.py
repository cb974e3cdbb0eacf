"""Virtual environments of the other libraries: found in ``SEGUE_PEERS``, otherwise created in ``.venv-peers``.

``python -m benchmarks.environments rectools`` prints the path of that environment's interpreter, and creates the
environment first if needed. Each library has an environment of its own, because they need different versions of NumPy
and pandas.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

__all__ = ["REQUIREMENTS", "interpreter"]

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0"
REQUIREMENTS: dict[str, list[str]] = {
    "rectools": ["rectools[torch]==0.19.0", "pytorch-lightning==2.5.2", TORCH],
    "recbole": ["recbole==1.2.1", "setuptools<81", "numpy<2", "pandas<3", "scipy<1.16", TORCH],
    "xlstm": ["xlstm==2.0.6", "mlstm_kernels==2.0.6", TORCH, "-e", str(ROOT)],
    "implicit": ["implicit==0.7.3", "scikit-surprise==1.1.5", "pandas", "threadpoolctl"],
    "lenskit": ["lenskit==2025.8.1", TORCH],
    "cornac": ["cornac==3.0.1"],
    "gensim": ["gensim==4.4.0"],
    "torch-rechub": ["torch-rechub==0.9.0", TORCH],
    "deepctr-torch": ["deepctr-torch==0.3.0", "requests", "setuptools<81", TORCH],
    "spark": ["pyspark==4.3.0", "numpy"],
}
"""Requirements of each environment, which also holds Surprise for ``implicit``. PyTorch is installed first, so that its
version is the one given here."""


def interpreter(name: str, install: bool = False) -> Path | None:
    """Return the Python of ``name``'s environment.

    Args:
        name: a key of :data:`REQUIREMENTS`.
        install: create a missing environment (some minutes); otherwise the result is ``None``.

    Raises:
        ValueError: an unknown name, or ``SEGUE_PEERS`` has no such environment.
    """
    if name not in REQUIREMENTS:
        raise ValueError(f"library: got '{name}', expected one of {', '.join(REQUIREMENTS)}")
    given = os.environ.get("SEGUE_PEERS")
    folder = Path(given) / name if given else ROOT / ".venv-peers" / name
    python = folder / "bin" / "python"
    done = folder / "ready"
    if python.exists() and (given or done.exists()):
        return python.absolute()
    if not install:
        return None
    if given:
        raise ValueError(f"SEGUE_PEERS={given}: no environment '{name}' there ({python} is missing)")
    print(f"creating {folder} (once, some minutes)", file=sys.stderr)
    venv.create(folder, with_pip=True, clear=True)
    for wanted in ([TORCH], REQUIREMENTS[name]) if TORCH in REQUIREMENTS[name] else (REQUIREMENTS[name],):
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True, stdout=sys.stderr)
    done.touch()
    return python.absolute()


if __name__ == "__main__":
    try:
        for library in sys.argv[1:]:
            print(interpreter(library, install=True))
    except (ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"{error}")
