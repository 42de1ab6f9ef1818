from .card import write_card as write_card
from .export import export_model as export_model
from .push import Release as Release
from .push import list_release as list_release
from .push import make_release as make_release
from .push import push_run as push_run
from .push_files import run_files as run_files
