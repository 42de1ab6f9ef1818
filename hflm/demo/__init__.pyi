from .serve import serve_demo as serve_demo
from .session import Session as Session
from .session import open_session as open_session
from .tabs import TaskTab as TaskTab
from .tabs import find_examples as find_examples
from .tabs import make_tabs as make_tabs
from .tabs import read_predictions as read_predictions
