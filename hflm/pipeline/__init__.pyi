from .bench import benchmark_model as benchmark_model
from .diagnostics import clear_caches as clear_caches
from .diagnostics import describe_environment as describe_environment
from .diagnostics import list_caches as list_caches
from .fetch import fetch_recipe as fetch_recipe
from .inputs import Inputs as Inputs
from .inputs import resolve_inputs as resolve_inputs
from .run import run_recipe as run_recipe
