from .base import BadRow as BadRow
from .base import Row as Row
from .options import FileOptions as FileOptions
from .options import make_options as make_options
from .read import read_rows as read_rows
from .read import read_texts as read_texts
