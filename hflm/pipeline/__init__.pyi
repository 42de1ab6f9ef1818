from .bench import benchmark_model as benchmark_model
from .fetch import fetch_recipe as fetch_recipe
from .inputs import Inputs as Inputs
from .inputs import resolve_inputs as resolve_inputs
from .run import run_recipe as run_recipe
