"""Models of Stable-Baselines3 in files that run no code when they are read, and training runs that resume from them.

`models` writes and reads the files, and `codecs` says how they hold spaces, schedules and classes. `resume` lets a
training go on as if it had not stopped: it puts back the wrappers around the environment (`wrapper_states`), the global
random generators (`generators`) and the modes of torch and NumPy (`modes`).
"""

from meta.saving.codecs import declare
from meta.saving.models import PlainModel
from meta.saving.resume import Resumable

__all__ = ["PlainModel", "Resumable", "declare"]
