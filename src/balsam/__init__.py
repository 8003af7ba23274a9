"""Balsam: run ensembles of simulations on machines elsewhere.

Importing this package reads no file, opens no connection and prints nothing. The public names are in `balsam.api`.
The one act done here makes `libensemble.executors.balsam_executor` importable where the interpreter did not read our
`.pth` file (a `--target` directory on PYTHONPATH); it costs one entry in `sys.meta_path`.
"""

__version__ = "0.1.0"

try:
    import _balsam_libensemble
except ModuleNotFoundError:  # a bare source tree on PYTHONPATH, which has no place for top-level modules
    pass
else:
    _balsam_libensemble.install()
